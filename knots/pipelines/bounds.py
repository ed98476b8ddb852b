"""What bounds a merge: the best single adapter, and one that was trained on all tasks jointly.

Which single adapter is the best is chosen on the validation split, by runs of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from knots.adapters import Adapter
from knots.errors import KnotsError
from knots.models.task_heads import task_heads
from knots.pipelines.plans import BEST, MergePlan
from knots.pipelines.workshop import Workshop

SPLIT = "validation"

Measure = Callable[[MergePlan], Mapping[str, Any] | None]
"""Makes or finds a run and gives its metrics; None where it is not there and is not to be made."""


def settled(plan: MergePlan, measure: Measure) -> MergePlan | None:
    """The same plan where it names its adapter, or needs none; else with the adapter that validation chooses.

    The largest average of normalized accuracies wins, or the largest pooled Hits@3 where all classes are
    scored jointly, as in the official search of merge options; of equals the first task's.

    Args:
        plan: of any kind.
        measure: is asked about every task's adapter alone on the validation split.

    Returns:
        None where `measure` does not know one of them.
    """
    if plan.adapter != BEST:
        return plan
    values = {}
    for task in plan.suite.task_names:
        metrics = measure(candidate(plan, task))
        if metrics is None:
            return None
        values[task] = _value(metrics, choice_metric(plan))
    return replace(plan, adapter=max(values, key=lambda task: values[task]), chosen=values)


def choice_metric(plan: MergePlan) -> str:
    """What the choice is made by."""
    return "hits@3" if plan.scoring.mode == "joint" else "normalized"


def candidate(plan: MergePlan, task: str) -> MergePlan:
    """The run of one task's adapter alone on the validation split."""
    merge = {**plan.config["merge"], "adapter": task}
    config = {**plan.config, "merge": merge, "split": SPLIT}
    return replace(plan, adapter=task, scoring=replace(plan.scoring, split=SPLIT), force=False, config=config)


def _value(metrics: Mapping[str, Any], metric: str) -> float:
    """What a run is worth; plain accuracy where a fine-tuned adapter gets nothing right, for all alike."""
    if metric.startswith("hits@"):
        return float(metrics["joint"][metric])
    average = metrics["average"]
    return float(average["accuracy"] if average[metric] is None else average[metric])


def choice_note(plan: MergePlan) -> list[str]:
    """Which adapter a run is of, and how it was chosen; nothing where nothing was."""
    if plan.chosen is None:
        return []
    what = "Hits@3" if choice_metric(plan) == "hits@3" else "average normalized accuracy"
    values = ", ".join(f"{task} {value:.1f}" for task, value in plan.chosen.items())
    return [f"adapter of {plan.adapter}, chosen by the {what} on the {SPLIT} split: {values}"]


def absent(plan: MergePlan) -> str | None:
    """Why there is nothing to score, as no such adapter was ever trained; None where there is one."""
    model = plan.model
    if plan.kind != "multitask" or model.multitask is not None:
        return None
    return (
        f"model {model.name!r} has no adapter that was trained on all tasks jointly; train one with "
        f"experiments/finetune.py model={model.name} multitask=true and name it with model.multitask=<folder>"
    )


def own_heads(plan: MergePlan, shop: Workshop) -> list[Tensor] | None:
    """Each task's head, where tasks bring one; of a jointly trained adapter the one that it has for all.

    Raises:
        KnotsError: an adapter has no head.
    """
    if plan.kind != "multitask" or shop.task_heads is None:
        return shop.task_heads
    together = [replace(shop.multitask, name=task) for task in plan.suite.task_names]
    return task_heads(together, None, shop.cache_dir)


def alone(plan: MergePlan, shop: Workshop) -> Adapter | None:
    """The one adapter that a plan scores, where it scores one that is no merge.

    Raises:
        KnotsError: it was never trained, cannot be loaded, or is still to be chosen.
    """
    reason = absent(plan)
    if reason is not None:
        raise KnotsError(f"merge={plan.kind}: {reason}")
    if plan.kind == "multitask":
        return shop.multitask
    if plan.adapter == BEST:
        raise KnotsError("merge.adapter=best is not chosen here; name a task with merge.adapter=<task>")
    return None if plan.adapter is None else shop.adapters[plan.suite.task_names.index(plan.adapter)]
