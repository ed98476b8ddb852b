"""What the paper's own tables would take: items through the model at given rates, and their merges.

Nothing of a real model is run. Items are counted from the plan; merges are timed on random adapters of the
model's shapes, on as many of its layers as keep it short.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import knots
from benchmarks._adapters import SHAPES, random_adapters
from benchmarks._measuring import median_seconds
from benchmarks._work import Work
from knots.adapters import Adapter
from knots.analysis.costs import REPETITIONS, SHORT
from knots.pipelines.bench import CALIBRATED
from knots.pipelines.plans import MergePlan
from knots.pipelines.reproduce.table_plan import TablePlan

EXAMPLES = (100.0, 1_000.0, 10_000.0)
"""Items a second, where nobody has measured any: examples, no model's rate."""

NUMBERS = 50_000_000
"""Entries of the touched matrices that are merged to time it; the rest is taken to cost as much by layer."""

LOOKS = 4
"""Merges of the sheet of costs beside those that it times: memory, size, and two for a change of factors."""


def projected(plan: TablePlan, work: Work, rate: float | None, device: str) -> dict[str, Any]:
    """What a table takes.

    Args:
        plan: the table.
        work: what `work_of` counted of it.
        rate: items that its model takes a second; None where that is not known.
        device: where merges are timed.

    Returns:
        Counts; minutes of forward passes by rate; seconds of one merge of each method, and minutes of all.
    """
    first = plan.rows[0].merge
    through = work.total + work.shown
    merges = merge_seconds(first.model.name, [row.merge for row in plan.rows], device)
    calls = {method: work.merges[method] + _measuring(work, method, merges) for method in work.merges}
    known = all(method in merges for method in calls)
    return {
        "model": first.model.name,
        "unit": "images" if first.suite.modality == "vision" else "pairs",
        "items": dict(work.items),
        "shown_to_rules": work.shown,
        "passes": work.passes,
        "merges": calls,
        "minutes_at_rate": None if rate is None else {"rate": rate, "minutes": through / rate / 60},
        "minutes_at_example_rates": {f"{example:g}": through / example / 60 for example in EXAMPLES},
        "merge_seconds": merges,
        "merge_minutes": sum(n * merges[m]["seconds"] for m, n in calls.items()) / 60 if known else None,
    }


def _measuring(work: Work, method: str, merges: Mapping[str, Mapping[str, Any]]) -> int:
    """Merges that the sheet of costs makes: those that it times, several where one is short, and others."""
    short = method in merges and merges[method]["seconds"] <= SHORT
    return work.measured[method] * ((REPETITIONS if short else 1) + LOOKS)


def merge_seconds(model: str, plans: Sequence[MergePlan], device: str) -> dict[str, dict[str, Any]]:
    """Method -> seconds of a merge of random adapters, and of how many of the layers it was timed.

    Args:
        model: a name in `benchmarks._adapters.SHAPES`; of another one nothing is timed.
        plans: what is merged and how.
        device: where.
    """
    wanted = {plan.label: plan for plan in plans if plan.kind == "merged"}
    if model not in SHAPES or not wanted:
        return {}
    shape = SHAPES[model]
    layers = shape.modules // len(shape.out)
    numbers = sum(o * i for o, i in shape.sides) // layers
    part = max(1, min(layers, NUMBERS // numbers))
    adapters = random_adapters(replace(shape, modules=part * len(shape.out)))
    found = {}
    for label, plan in wanted.items():
        what = CALIBRATED.get(plan.options["rule"])
        statistics = {} if what is None else {what: _stand_ins(adapters, what)}
        make = partial(knots.merge, adapters, **plan.options, **statistics, seed=plan.seed, device=device)
        seconds = median_seconds(partial(_read, make), 1, device)
        found[label] = {"seconds": seconds * layers / part, "timed_layers": part, "layers": layers}
    return found


def _read(make: Callable[[], Adapter]) -> None:
    """One merge, read once: what waits to be read is a part of it."""
    for update in make().updates.values():
        update.held()


def _stand_ins(adapters: Sequence[Adapter], what: str) -> dict[str, dict[str, torch.Tensor]]:
    """Statistics as a rule wants them of data: the same for all modules of one shape."""
    shapes = {name: update.shape for name, update in adapters[0].updates.items()}
    made = {
        (rows, columns): torch.eye(columns) + 0.01 if what == "grams" else torch.ones(rows, columns)
        for rows, columns in set(shapes.values())
    }
    each = {name: made[shape] for name, shape in shapes.items()}
    return {adapter.name: each for adapter in adapters}
