"""Find what is wrong with a plan before anything slow happens."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from knots.adapters import Adapter
from knots.checks import updates_by_module
from knots.errors import KnotsError
from knots.merging import merge
from knots.models.attach import check_modules
from knots.pipelines.bench import CALIBRATED
from knots.pipelines.bounds import alone
from knots.pipelines.plans import BASELINES, MergePlan
from knots.pipelines.workshop import Workshop
from knots.updates import LowRank


def rehearse(plan: MergePlan, shop: Workshop) -> None:
    """Find what is wrong with options and adapters before anything slow happens.

    The adapters are held against each other and against the model; `merge` is asked to take the options.

    Raises:
        KnotsError: whatever the run itself would have raised later.
    """
    published_references(plan)
    if plan.kind == "zero_shot":
        return
    one = alone(plan, shop)
    if one is not None:
        check_modules(shop.model.tower, one)
    if plan.kind == "merged":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the merge itself says it again
            shapes = {parts[0].shape for parts in updates_by_module(shop.adapters, "cpu").values()}
            shape, tasks = min(shapes), plan.suite.task_names
            merge(_stand_ins(tasks, shape), **plan.options, **_statistics(plan, shape), seed=plan.seed)
    for adapter in shop.adapters:
        check_modules(shop.model.tower, adapter)


def _stand_ins(tasks: Sequence[str], shape: tuple[int, int]) -> list[Adapter]:
    """Adapters of one random module [O, I], to try options on."""
    generator = torch.Generator().manual_seed(0)
    b, a = torch.randn(shape[0], 2, generator=generator), torch.randn(2, shape[1], generator=generator)
    return [Adapter(task, {"module": LowRank(b.roll(place, 0), a)}) for place, task in enumerate(tasks)]


def _statistics(plan: MergePlan, shape: tuple[int, int]) -> dict[str, Any]:
    """Stand-ins of what `bench` collects, for the one module of `_stand_ins`.

    Raises:
        KnotsError: the rule needs data, and the configuration does not say which.
    """
    name = CALIBRATED.get(plan.options["rule"])
    if name is None:
        return {}
    if plan.calibration is None or (name == "fishers" and plan.calibration.labels is None):
        raise KnotsError(
            f"rule {plan.options['rule']!r} looks at data: give merge.calibration, as "
            "conf/merge/regmean.yaml and conf/merge/fisher.yaml do"
        )
    unit = torch.eye(shape[1]) if name == "grams" else torch.ones(shape)
    return {name: {task: {"module": unit} for task in plan.suite.task_names}}


def published_references(plan: MergePlan) -> dict[str, float] | None:
    """Published fine-tuned accuracies in percent; None where the plan does not divide by them.

    Raises:
        KnotsError: a task has none.
    """
    if plan.scoring.normalize_by != "published" or not BASELINES[plan.kind]:
        return None
    figures = {task.name: task.published.get(plan.model.name) for task in plan.suite.tasks}
    absent = [name for name, figure in figures.items() if figure is None]
    if absent:
        raise KnotsError(
            f"normalize_by='published': suite {plan.suite.name!r} names no published fine-tuned accuracy for "
            f"{', '.join(absent)}; use normalize_by=measured"
        )
    return {name: float(figure) for name, figure in figures.items() if figure is not None}
