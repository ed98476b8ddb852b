"""Which methods of a table differ: every pair on the same items, and the smallest difference to be seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from math import isfinite
from statistics import median

import numpy as np

from knots.analysis.statistics import (
    DISCORDANT,
    Draws,
    Estimate,
    Panel,
    detectable,
    hierarchical,
    holm,
    mcnemar,
    normal_p,
    panel,
    planned_error,
)
from knots.evaluation.intervals import DRAWS
from knots.pipelines.merge import Outcome
from knots.pipelines.rehearsal import published_references
from knots.pipelines.reproduce.experiment import NOT_RUN
from knots.pipelines.reproduce.methods import Found, best_of, split_of
from knots.pipelines.reproduce.table_plan import AVERAGE, RowPlan, TablePlan
from knots.reporting.sheets import Cell, Row, Sheet

BOUNDS = ("zero_shot", "single", "router", "multitask", "finetuned")
LEVEL = 0.05
LABEL = "minimal detectable difference"
SENT = "power 80 %, level 5 %, two-sided; in points"

Figure = Callable[[TablePlan, RowPlan, str], Cell]
Pair = tuple[str, str]


@dataclass(frozen=True)
class Paired:
    """How two methods differ in one column.

    Attributes:
        estimate: of the second minus the first.
        p: exact McNemar; of the average, from its standard error.
    """

    estimate: Estimate
    p: float


Tests = Mapping[Pair, Mapping[str, Paired]]
"""(label above, label below) -> column -> test; without columns that have no number."""


def compare_methods(plan: TablePlan, found: Mapping[str, Found]) -> Tests:
    """Test every pair of methods that ran, on the items of all columns.

    Args:
        plan: the table.
        found: label -> what a row found.

    Raises:
        KnotsError: predictions cannot be read, or are not of the same items.
    """
    outcomes = {row.label: best_of(found[row.label]) for row in methods_of(plan) if row.label in found}
    if len(outcomes) < 2:
        return {}
    pairs = list(combinations(outcomes, 2))
    tests: dict[Pair, dict[str, Paired]] = {pair: {} for pair in pairs}
    whole = None if plan.columns[0].startswith("hits@") else _panel(plan, outcomes, None)
    for column in plan.columns:
        known = _panel(plan, outcomes, column) if whole is None else _part(whole, column)
        draws = hierarchical(known, pooled=whole is None, divisors=_divisors(plan))
        for pair in pairs:
            test = _test(known, draws, pair, exact=column != AVERAGE)
            if test is not None:
                tests[pair][column] = test
    return tests


def methods_of(plan: TablePlan) -> list[RowPlan]:
    """The rows that are compared with one another: not what they are measured by, nor what bounds them."""
    return [row for row in plan.rows if row.merge.kind not in BOUNDS]


def _panel(plan: TablePlan, outcomes: Mapping[str, Outcome], column: str | None) -> Panel:
    """All methods' outcomes, of joint hits where a column is named."""
    tables = {label: outcome.run.predictions() for label, outcome in outcomes.items()}
    if column is not None:
        return panel([tables], hits=int(column.removeprefix("hits@")))
    finetuned = next(iter(outcomes.values())).baselines.get("finetuned")
    measured = methods_of(plan)[0].merge.scoring.normalize_by == "measured" and finetuned is not None
    return panel([tables], reference=[finetuned.predictions()] if measured and finetuned else None)


def _part(whole: Panel, column: str) -> Panel:
    return whole if column == AVERAGE else whole.only([column])


def _divisors(plan: TablePlan) -> dict[str, float] | None:
    """Published fine-tuned accuracies, where the table divides by them."""
    merge = methods_of(plan)[0].merge
    known = None if merge.scoring.mode == "joint" else published_references(merge)
    return None if known is None else {task: figure / 100 for task, figure in known.items()}


def _test(known: Panel, draws: Draws, pair: Pair, *, exact: bool) -> Paired | None:
    """None where one was not scored on the same tasks, or where a value does not exist."""
    first, second = (known.predictors.index(label) for label in pair)
    tasks = [task for task, scored in zip(known.tasks, known.scored[first], strict=True) if scored]
    estimate = draws.difference(pair[1], pair[0])
    if (known.scored[first] != known.scored[second]).any() or not tasks or estimate.error is None:
        return None
    if not exact:
        return Paired(estimate, normal_p(estimate.value, estimate.error))
    right = [np.concatenate([known.right[task][0, place] for task in tasks]) for place in (first, second)]
    return Paired(estimate, mcnemar(*right))


def told(plan: TablePlan, tests: Tests) -> list[str]:
    """A note of the table: how many pairs differ on the whole, and where they stand."""
    column = AVERAGE if AVERAGE in plan.columns else plan.columns[0]
    adjusted = {pair: p for (pair, where), p in _holm(tests).items() if where == column}
    if not adjusted:
        return []
    significant = sum(p <= LEVEL for p in adjusted.values())
    return [
        f"{significant} of {len(adjusted)} pairs of methods differ significantly in {column}, Holm over all "
        f"columns: tables/{sheet_name(plan)}.txt"
    ]


def sheet_name(plan: TablePlan) -> str:
    """Of the sheet of differences."""
    return f"{plan.experiment.name}_differences"


def detectable_row(plan: TablePlan, found: Mapping[str, Found], tests: Tests) -> tuple[Row, str]:
    """The table's last row, in points, and how it was computed.

    Args:
        plan: the table.
        found: label -> what a row found.
        tests: what `compare_methods` gave; where it is empty, the row is what can be planned without a run.
    """
    errors: dict[str, list[float]] = {column: [] for column in plan.columns}
    for columns in tests.values():
        for column, test in columns.items():
            errors[column].append(test.estimate.error or 0.0)
    if tests:
        values = {column: detectable(median(some)) for column, some in errors.items() if some}
        told = f"2.8 standard errors of a paired difference, median over {len(tests)} pairs of methods"
    else:
        values, told = _planned(plan, found)
    cells = [Cell(100 * values[column] if column in values else None) for column in plan.columns]
    return Row(LABEL, tuple(cells)), f"{LABEL}: {told}; {SENT}"


def _planned(plan: TablePlan, found: Mapping[str, Found]) -> tuple[dict[str, float], str]:
    """Column -> minimal detectable difference as a fraction, before two methods were run."""
    row = (methods_of(plan) or plan.rows)[0]
    suite, split = row.merge.suite, split_of(row.plan)
    n = {task.name: task.size(split) for task in suite.tasks}
    told = f"planned, for two methods of which only one is right on {100 * DISCORDANT:g} % of the items"
    if plan.columns[0].startswith("hits@"):
        error = planned_error({"all": sum(n.values())}, {"all": 1.0})[AVERAGE]
        return dict.fromkeys(plan.columns, detectable(error)), told
    ceilings, whence = _ceilings(row, found)
    errors = planned_error(n, ceilings)
    return {column: detectable(errors[column]) for column in plan.columns}, f"{told}; {whence}"


def _ceilings(row: RowPlan, found: Mapping[str, Found]) -> tuple[dict[str, float], str]:
    """Task -> fine-tuned accuracy as a fraction, and where it is from; 1 where it is not known for all."""
    tasks, model = row.merge.suite.tasks, row.merge.model.name
    published = {task.name: task.published.get(model) for task in tasks}
    measured: Mapping[str, float | None] = {}
    for outcome in map(best_of, found.values()):
        kind = outcome.run.metrics["merge"]["kind"]
        run = outcome.run if kind == "finetuned" else outcome.baselines.get("finetuned")
        if run is not None:
            measured = {task: values["accuracy"] for task, values in run.metrics["per_task"].items()}
    for known, whence in ((measured, "measured"), (published, "published")):
        values = {task.name: known.get(task.name) for task in tasks}
        if all(values.values()):
            return {task: (value or 0.0) / 100 for task, value in values.items()}, (
                f"normalized by {whence} fine-tuned accuracies"
            )
    return {task.name: 1.0 for task in tasks}, "of accuracies, for no fine-tuned ones are known"


def differences_sheet(plan: TablePlan, tests: Tests, least: Row, figure: Figure) -> Sheet | None:
    """Every pair of methods, measured or published; None where there is none.

    Args:
        plan: the table.
        tests: what `compare_methods` gave.
        least: what `detectable_row` gave.
        figure: a cell of the table with what was published for it.
    """
    adjusted = _holm(tests)
    rows = []
    for above, below in combinations(methods_of(plan), 2):
        pair = above.label, below.label
        gaps = [
            _gap(figure(plan, above, column), figure(plan, below, column), smallest)
            for column, smallest in zip(plan.columns, least.cells, strict=True)
        ]
        cells = [
            _cell(gap, tests, adjusted, pair, column) for gap, column in zip(gaps, plan.columns, strict=True)
        ]
        if pair in tests or any(cell.published is not None for cell in cells):
            missing = None if pair in tests else NOT_RUN
            rows.append(Row(f"{below.label} - {above.label}", tuple(cells), missing))
    if not rows:
        return None
    unit = "hits" if plan.columns[0].startswith("hits@") else "normalized accuracy"
    title = f"{plan.experiment.title}: differences of methods, points of {unit}"
    return Sheet(sheet_name(plan), title, plan.columns, tuple(rows), _notes(adjusted), signed=True)


def _holm(tests: Tests) -> dict[tuple[Pair, str], float]:
    """(pair, column) -> p, corrected for all tests of the table."""
    every = {(pair, column): test.p for pair, columns in tests.items() for column, test in columns.items()}
    return dict(zip(every, holm(list(every.values())), strict=True)) if every else {}


def _gap(above: Cell, below: Cell, least: Cell) -> Cell:
    """What was published for the difference; faint where it is too small to be seen in this column."""
    if above.published is None or below.published is None:
        return Cell()
    gap = below.published - above.published
    faint = least.ours is not None and abs(gap) < least.ours
    return Cell(published=gap, second_hand=above.second_hand or below.second_hand, faint=faint)


def _cell(
    gap: Cell, tests: Tests, adjusted: Mapping[tuple[Pair, str], float], pair: Pair, column: str
) -> Cell:
    test = tests.get(pair, {}).get(column)
    if test is None or not isfinite(test.estimate.value):
        return gap
    low, high = test.estimate.interval or (test.estimate.value, test.estimate.value)
    return replace(
        gap,
        ours=100 * test.estimate.value,
        interval=(100 * low, 100 * high),
        star=adjusted[pair, column] <= LEVEL,
    )


def _notes(adjusted: Mapping[tuple[Pair, str], float]) -> tuple[str, ...]:
    if not adjusted:
        return ()
    return (
        f"intervals: paired bootstrap over items, {DRAWS:,} draws, denominators drawn too",
        f"{len(adjusted)} tests: exact McNemar; of averages, normal with the bootstrap's standard error",
    )
