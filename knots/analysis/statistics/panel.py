"""Predictors that were scored on the same items: what every paired statistic is made from.

Shapes: U universes of adapters, M predictors, T tasks, N_t items of task t.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from knots.errors import KnotsError

Bools = npt.NDArray[np.bool_]

SHOWN = 3
"""Tasks or items that an error names before it stops."""


@dataclass(frozen=True, eq=False)
class Panel:
    """Predictors that were scored on the same items, in one or more universes of adapters.

    Attributes:
        tasks: names of the T tasks.
        predictors: names of the M predictors.
        right: task -> [U, M, N_t], whether each item is right; False where `scored` is.
        reference: task -> [U, N_t], the same of the fine-tuned adapters, whose accuracies others are divided
            by; None where they are divided by nothing.
        scored: [M, T], whether a predictor was scored on a task, the same in every universe.
    """

    tasks: tuple[str, ...]
    predictors: tuple[str, ...]
    right: Mapping[str, Bools]
    reference: Mapping[str, Bools] | None
    scored: Bools

    @property
    def universes(self) -> int:
        """U."""
        return len(self.right[self.tasks[0]])

    @property
    def items(self) -> dict[str, int]:
        """Task -> N_t."""
        return {task: self.right[task].shape[-1] for task in self.tasks}


@dataclass(frozen=True, eq=False)
class _Scores:
    """One predictor on one task: [N_t] each, in the order of the items' numbers."""

    item: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    right: Bools


def panel(
    universes: Sequence[Mapping[str, pd.DataFrame]],
    *,
    reference: Sequence[pd.DataFrame] | None = None,
    hits: int | None = None,
) -> Panel:
    """Match predictions item by item; the order of their rows does not matter.

    Args:
        universes: for each universe, predictor -> predictions with the columns task, item, label and
            prediction, or joint_rank where `hits` is given; one row an item.
        reference: for each universe the fine-tuned adapters' predictions, which are of all tasks.
        hits: right means a joint rank of at most this; None: the prediction is the label.

    Raises:
        KnotsError: predictors or tasks differ between universes, items or labels between predictors, an item
            is there twice, or a value is missing.
    """
    if not universes or not universes[0]:
        raise KnotsError("nothing to compare: at least one universe with one predictor is needed")
    if reference is not None and hits is not None:
        raise KnotsError(f"hits={hits} with a reference: joint hits are not normalized")
    predictors = tuple(universes[0])
    tables = [_scores_of_all(universe, predictors, place, hits) for place, universe in enumerate(universes)]
    tasks = tuple(dict.fromkeys(task for name in predictors for task in tables[0][name]))
    if not tasks:
        raise KnotsError(f"nothing to compare: the predictions of {predictors[0]!r} have no rows")
    ceilings = None if reference is None else _ceilings(reference, len(universes), tasks)
    items = _shared_items(tables, ceilings, tasks)
    return Panel(
        tasks=tasks,
        predictors=predictors,
        right={task: _stacked(tables, predictors, task, items[task]) for task in tasks},
        reference=None
        if ceilings is None
        else {task: np.stack([ceiling[task].right for ceiling in ceilings]) for task in tasks},
        scored=_scored(tables, predictors, tasks),
    )


def _scores_of_all(
    universe: Mapping[str, pd.DataFrame], predictors: Sequence[str], place: int, hits: int | None
) -> dict[str, dict[str, _Scores]]:
    if set(universe) != set(predictors):
        raise KnotsError(
            f"universe {place} has the predictors {', '.join(universe)}, expected {', '.join(predictors)}, "
            "as the first"
        )
    return {name: _scores(name, universe[name], hits) for name in predictors}


def _scores(name: str, predictions: pd.DataFrame, hits: int | None) -> dict[str, _Scores]:
    """Task -> the predictor's outcomes, in the order of the items."""
    answer = "prediction" if hits is None else "joint_rank"
    for column in ("task", "item", "label", answer):
        if column not in predictions.columns:
            raise KnotsError(f"the predictions of {name!r} have no column {column!r}")
        absent = predictions[column].isna()
        if absent.any():
            raise KnotsError(f"the predictions of {name!r}: {int(absent.sum())} rows have no {column}")
    scores = {}
    for task, rows in predictions.groupby("task", sort=False):
        ordered = rows.sort_values("item", kind="stable")
        item, label, given = (
            ordered[column].to_numpy(dtype=np.int64) for column in ("item", "label", answer)
        )
        twice = item[1:][item[1:] == item[:-1]]
        if len(twice):
            raise KnotsError(f"the predictions of {name!r}, task {task!r}: item {twice[0]} is there twice")
        scores[str(task)] = _Scores(item, label, given == label if hits is None else given <= hits)
    return scores


def _ceilings(
    reference: Sequence[pd.DataFrame], universes: int, tasks: Sequence[str]
) -> list[dict[str, _Scores]]:
    if len(reference) != universes:
        raise KnotsError(f"{len(reference)} references for {universes} universes; one for each is needed")
    ceilings = [_scores("reference", predictions, None) for predictions in reference]
    for ceiling in ceilings:
        absent = [task for task in tasks if task not in ceiling]
        if absent:
            raise KnotsError(f"the reference has no predictions of {_named(absent)}")
    return ceilings


def _shared_items(
    tables: Sequence[Mapping[str, Mapping[str, _Scores]]],
    ceilings: Sequence[Mapping[str, _Scores]] | None,
    tasks: Sequence[str],
) -> dict[str, int]:
    """Task -> number of its items, which are the same everywhere."""
    return {task: _check_same(task, list(_of_task(tables, ceilings, task))) for task in tasks}


def _of_task(
    tables: Sequence[Mapping[str, Mapping[str, _Scores]]],
    ceilings: Sequence[Mapping[str, _Scores]] | None,
    task: str,
) -> Iterator[tuple[str, _Scores]]:
    """Everything that was scored on a task, by name."""
    for table in tables:
        yield from ((name, scores[task]) for name, scores in table.items() if task in scores)
    for ceiling in ceilings or ():
        yield "reference", ceiling[task]


def _check_same(task: str, scored: Sequence[tuple[str, _Scores]]) -> int:
    """Number of items, after a check that all predictors have the same ones with the same labels."""
    first, expected = scored[0]
    for name, scores in scored[1:]:
        if not np.array_equal(scores.item, expected.item):
            other = np.setxor1d(scores.item, expected.item)
            raise KnotsError(
                f"task {task!r}: {name!r} has {len(scores.item)} items and {first!r} has "
                f"{len(expected.item)}; only one of them has item {_named(other.tolist())}"
            )
        differ = expected.item[scores.label != expected.label]
        if len(differ):
            raise KnotsError(
                f"task {task!r}: {name!r} and {first!r} have other labels for {len(differ)} items, as "
                f"{_named(differ.tolist())}: they are not of the same split, or their classes are ordered otherwise"
            )
    return len(expected.item)


def _stacked(
    tables: Sequence[Mapping[str, Mapping[str, _Scores]]], predictors: Sequence[str], task: str, items: int
) -> Bools:
    """[U, M, N_t]."""
    right = np.zeros((len(tables), len(predictors), items), dtype=bool)
    for universe, table in enumerate(tables):
        for place, name in enumerate(predictors):
            if task in table[name]:
                right[universe, place] = table[name][task].right
    return right


def _scored(
    tables: Sequence[Mapping[str, Mapping[str, _Scores]]], predictors: Sequence[str], tasks: Sequence[str]
) -> Bools:
    """[M, T], after a check that it is the same in every universe."""
    for place, table in enumerate(tables):
        for name in predictors:
            if set(table[name]) != set(tables[0][name]):
                raise KnotsError(
                    f"universe {place}: {name!r} has the tasks {', '.join(table[name])}, "
                    f"expected {', '.join(tables[0][name])}, as in the first"
                )
    return np.array([[task in tables[0][name] for task in tasks] for name in predictors])


def _named(things: Sequence[object]) -> str:
    """The first few of a list."""
    return ", ".join(map(str, things[:SHOWN])) + (", ..." if len(things) > SHOWN else "")
