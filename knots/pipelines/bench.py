"""What one run needs beside what others share: what it scores, what its rule sees, its trainer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import lightning as L
import torch
from rich.console import Console

from knots.adapters import Adapter
from knots.adapters.shortening import shorten_all
from knots.evaluation import Ensemble, Finetuned, Merged, Multitask, Predictor, Router, Single, ZeroShot
from knots.evaluation.calibration import collect_fishers, collect_grams
from knots.evaluation.images import LOGIT_SCALE
from knots.merging import Prepared, merge
from knots.pipelines.bounds import alone
from knots.pipelines.plans import MergePlan
from knots.pipelines.progress import EvaluationBar
from knots.pipelines.trainers import quiet_trainer
from knots.pipelines.workshop import Workshop
from knots.suites.data import Sample, load_split

log = logging.getLogger(__name__)

CALIBRATED = {"regmean": "grams", "fisher": "fishers"}
"""Rules that look at data, and the option of `merge` that takes what they saw."""

CALIBRATION_BATCH = {"vision": 32, "language": 4096}
"""The most images, or tokens, whose inputs and gradients are looked at together."""


def workshop_for(plan: MergePlan, *, keeps: bool = True) -> Workshop:
    """What a plan's run shares with others; `keeps`: there are others to come."""
    return Workshop(
        plan.model,
        plan.suite,
        precision=plan.scoring.precision,
        data=plan.data,
        cache_dir=plan.cache_dir,
        keeps=keeps,
    )


def merged(plan: MergePlan, shop: Workshop, device: torch.device) -> tuple[Adapter, float | None]:
    """The merge of the adapters, with what its rule wants to know of the data, and the heads in use.

    Returns:
        The merge, and the relative error that shortening it to the plan's rank cost; None where it is whole.
    """
    found = merger(plan, shop, device)(shop.prepared)
    cost = None
    if plan.max_rank is not None:
        short, cost = shorten_all(found.updates, plan.max_rank)
        found = replace(found, updates=short)
    if shop.task_heads is None:
        return found, cost
    heads = zip(plan.suite.task_names, shop.task_heads, strict=True)
    return replace(found, heads={f"{task}.weight": head for task, head in heads}), cost


def merger(
    plan: MergePlan, shop: Workshop, device: torch.device
) -> Callable[[Sequence[Adapter] | Prepared], Adapter]:
    """What merges adapters of the plan's tasks as the plan says, before anything is shortened."""
    statistics = _statistics(plan, shop, device)
    return partial(merge, **plan.options, **statistics, seed=plan.seed, device=device)


def predictor_of(plan: MergePlan, shop: Workshop, make: Callable[[torch.device], Adapter]) -> Predictor:
    """What a plan scores; `make` merges on a device where it is a merge."""
    kind, one = plan.kind, alone(plan, shop)
    if kind == "merged":
        return Merged(make)
    if kind == "zero_shot":
        return ZeroShot()
    if one is not None:
        return Multitask(one) if kind == "multitask" else Single(one)
    if kind == "ensemble":
        return Ensemble(shop.adapters)
    return Router(shop.adapters) if kind == "router" else Finetuned(shop.adapters)


def _statistics(plan: MergePlan, shop: Workshop, device: torch.device) -> Mapping[str, Any]:
    """Gram matrices or Fishers, for the rules that need them; of the same items they are kept."""
    wanted = plan.calibration
    rule = plan.options["rule"]
    if rule not in CALIBRATED or wanted is None:
        return {}
    key = {"rule": rule, "device": str(device), "batch": plan.scoring.batch_size, **vars(wanted)}
    known = shop.prepared.recall("statistics", key)
    if known is None:
        known = shop.prepared.keep("statistics", key, _measured(plan, shop, device))
    found: Mapping[str, Any] = known
    return found


def _measured(plan: MergePlan, shop: Workshop, device: torch.device) -> dict[str, Any]:
    """Look at the calibration items through every task's own model."""
    wanted = plan.calibration
    assert wanted is not None
    rule = plan.options["rule"]
    log.info("%s: looking at %d %s items of each task", plan.label, wanted.examples, wanted.split)
    sample = Sample(wanted.examples, wanted.seed)
    splits = [
        load_split(task, wanted.split, plan.cache_dir, shop.reading, sample) for task in plan.suite.tasks
    ]
    most = CALIBRATION_BATCH[plan.suite.modality]
    batch = min(plan.scoring.batch_size or most, most)
    if rule == "regmean":
        grams = collect_grams(shop.model, shop.adapters, splits, batch_size=batch, device=device)
        return {"grams": grams}
    heads = shop.task_heads
    fishers = collect_fishers(
        shop.model,
        shop.adapters,
        shop.class_heads(device).tasks if heads is None else heads,
        splits,
        labels=wanted.labels or "sampled",
        batch_size=batch,
        device=device,
        seed=wanted.seed,
        scale=LOGIT_SCALE if heads is None else 1.0,
        absent=None if heads is None else [task.absent for task in plan.suite.text_tasks],
    )
    return {"fishers": fishers}


def make_trainer(plan: MergePlan, label: str, console: Console) -> L.Trainer:
    """A trainer that shows one bar and writes nothing.

    Raises:
        KnotsError: Lightning refuses the options.
    """
    return quiet_trainer(plan.trainer, [EvaluationBar(label, plan.suite.task_names, console)])
