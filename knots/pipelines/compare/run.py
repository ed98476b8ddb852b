"""The paired tests of two sets of predictions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from knots.analysis.statistics import (
    Estimate,
    Panel,
    hierarchical,
    holm,
    mcnemar,
    normal_p,
    panel,
)
from knots.errors import KnotsError
from knots.evaluation.intervals import PairedCounts, pair
from knots.pipelines.compare.plan import NO_REFERENCE, ComparePlan
from knots.pipelines.compare.predictions import Predictions, read_predictions
from knots.store import finetuned_of


@dataclass(frozen=True)
class Difference:
    """How two sets of predictions did on a task, or on all of them; shares are fractions.

    Attributes:
        first: of the first set.
        second: of the second one.
        difference: second minus first.
        counts: items that both, one or neither got right.
        p: of no difference: exact McNemar, or of an average from its standard error; None where it has none.
        adjusted: p, corrected by Holm for all tasks; None for what is over all of them.
    """

    first: Estimate
    second: Estimate
    difference: Estimate
    counts: PairedCounts
    p: float | None
    adjusted: float | None = None


@dataclass(frozen=True)
class Compared:
    """Two sets of predictions side by side.

    Attributes:
        titles: whose they are.
        tasks: task -> how they differ there.
        whole: the same over all tasks: their average, of joint hits all items.
        normalized: title of the reference that accuracies are divided by; None where there is none.
        hits: the rank that counts as right; None for accuracies.
    """

    titles: tuple[str, str]
    tasks: dict[str, Difference]
    whole: Difference
    normalized: str | None
    hits: int | None


def run_compare(plan: ComparePlan) -> Compared:
    """Match two sets of predictions item by item and test whether they differ.

    Raises:
        KnotsError: predictions cannot be found or read, or are not of the same tasks, items and labels.
    """
    answers = ("prediction",) if plan.hits is None else ("joint_rank",)
    first, second = (read_predictions(place, plan.output_dir, answers) for place in (plan.first, plan.second))
    _check_two(first, second)
    reference = _reference(plan, first, second)
    known = panel(
        [{first.place: first.table, second.place: second.table}],
        reference=None if reference is None else [_only(reference, first)],
        hits=plan.hits,
    )
    tasks = {task: _compared(known.only([task]), exact=True) for task in known.tasks}
    adjusted = holm([found.p for found in tasks.values() if found.p is not None])
    corrected = {
        task: replace(found, adjusted=p) for (task, found), p in zip(tasks.items(), adjusted, strict=True)
    }
    pooled = plan.hits is not None
    whole = _compared(known, exact=pooled, pooled=pooled)
    title = None if reference is None else reference.title
    return Compared((first.title, second.title), corrected, whole, title, plan.hits)


def _check_two(first: Predictions, second: Predictions) -> None:
    """Refuse one set twice, and two that are not of the same tasks."""
    same = first.run is not None and second.run is not None and first.run.folder == second.run.folder
    if same or first.place == second.place:
        raise KnotsError(
            f"{first.place!r} and {second.place!r} are the same; two sets of predictions are needed"
        )
    for one, other in ((first, second), (second, first)):
        absent = sorted(set(one.table["task"]) - set(other.table["task"]))
        if absent:
            raise KnotsError(
                f"{other.place} has no task {absent[0]!r}, which {one.place} has; both need the same tasks, "
                f"and it has {', '.join(other.table['task'].unique())}"
            )


def _reference(plan: ComparePlan, first: Predictions, second: Predictions) -> Predictions | None:
    """What accuracies are divided by."""
    if plan.hits is not None and plan.reference not in (None, NO_REFERENCE):
        raise KnotsError(f"reference={plan.reference} with hits={plan.hits}: joint hits are not normalized")
    if plan.hits is not None or plan.reference == NO_REFERENCE:
        return None
    if plan.reference is not None:
        return read_predictions(plan.reference, plan.output_dir)
    if first.run is None or second.run is None:
        return None
    found = {run.folder: run for run in map(finetuned_of, (first.run, second.run)) if run is not None}
    # Of two sets of adapters, neither's fine-tuned accuracies are those of both.
    return read_predictions(str(next(iter(found))), plan.output_dir) if len(found) == 1 else None


def _only(reference: Predictions, first: Predictions) -> pd.DataFrame:
    """The reference on the tasks that are compared."""
    return reference.table[reference.table["task"].isin(first.table["task"].unique())]


def _compared(known: Panel, *, exact: bool, pooled: bool = False) -> Difference:
    """The two predictors of a panel over all of its tasks."""
    draws = hierarchical(known, pooled=pooled)
    first, second = known.predictors
    right = [np.concatenate([known.right[task][0, place] for task in known.tasks]) for place in (0, 1)]
    difference = draws.difference(second, first)
    p = mcnemar(*right) if exact else None
    if not exact and difference.error is not None:
        p = normal_p(difference.value, difference.error)
    return Difference(draws.mean(first), draws.mean(second), difference, pair(*right), p)
