"""What universes say, as tables and a figure: means and deviations, pairs of methods, rankings.

Everything is of the universes that were run, and intervals are for other universes and other items too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from knots.analysis.statistics import (
    Draws,
    Estimate,
    Panel,
    concordance,
    detectable_by,
    hierarchical,
    holm,
    mean_of_units,
)
from knots.evaluation.intervals import DRAWS
from knots.evaluation.summary import BOOTSTRAP_SEED
from knots.pipelines.merge import Outcome
from knots.pipelines.reproduce.differences import LABEL, LEVEL
from knots.pipelines.reproduce.experiment import NOT_RUN, Picture
from knots.pipelines.reproduce.methods import data_note, label_of, search_note
from knots.pipelines.reproduce.table_plan import AVERAGE
from knots.pipelines.reproduce.universes.plan import UniversesPlan
from knots.reporting.charts import bars
from knots.reporting.comparison import Value
from knots.reporting.sheets import Cell, Row, Sheet
from knots.runs import Run

INITS = {True: "shared initial factors", False: "initial factors of their own"}


@dataclass(frozen=True, eq=False)
class Arm:
    """The methods on the sets of adapters of one kind.

    Attributes:
        experiment: its name.
        shared_init: which kind of sets.
        panel: the outcomes of the methods that ran in every universe; None where none did.
        found: method -> universe -> its run, of the same methods.
    """

    experiment: str
    shared_init: bool
    panel: Panel | None
    found: Mapping[str, Mapping[int, Outcome]]

    @property
    def name(self) -> str:
        """Of its files."""
        return self.experiment if self.shared_init else f"{self.experiment}_own_init"

    @cached_property
    def draws(self) -> dict[str, Draws]:
        """Column -> draws of the methods' numbers there: each task, and the average."""
        assert self.panel is not None
        tasks = {task: self.panel.only([task]) for task in self.panel.tasks}
        return {
            column: hierarchical(some, seed=BOOTSTRAP_SEED)
            for column, some in {**tasks, AVERAGE: self.panel}.items()
        }

    @property
    def pairs(self) -> Iterator[tuple[str, str]]:
        """Every two methods, in the order of the table."""
        return itertools.combinations(self.found, 2)


def arm_sheets(plan: UniversesPlan, arm: Arm, failures: Mapping[str, str]) -> list[Sheet]:
    """Means, differences and rankings of one kind of sets."""
    sheets = [_means_sheet(plan, arm, failures)]
    if len(arm.found) > 1:
        sheets.append(_differences_sheet(plan, arm))
    if len(arm.found) > 2:
        sheets.append(_ranking_sheet(plan, arm))
    return sheets


def _means_sheet(plan: UniversesPlan, arm: Arm, failures: Mapping[str, str]) -> Sheet:
    columns = (*plan.first.suite.task_names, AVERAGE)
    rows = []
    for method in plan.rows:
        label = label_of(method)
        if method in arm.found:
            rows.append(Row(label, tuple(cell_of(arm.draws[c].mean(method)) for c in columns)))
            rows.append(Row(f"{label}, deviation", tuple(_deviation(arm, method, c) for c in columns)))
        else:
            reasons = (why for what, why in failures.items() if what.startswith(f"{label}, "))
            rows.append(Row(label, tuple(Cell() for _ in columns), next(reasons, NOT_RUN)))
    rows.append(_detectable_row(arm, columns))
    count = len(plan.universes)
    return Sheet(
        name=arm.name,
        title=f"{plan.experiment.title}: normalized accuracy, %, mean over {count} universes "
        f"({INITS[arm.shared_init]})",
        columns=columns,
        rows=tuple(rows),
        notes=tuple(_notes(plan)),
    )


def cell_of(estimate: Estimate, *, star: bool = False) -> Cell:
    """An estimate in percent."""
    ends = estimate.interval
    value = 100 * estimate.value if np.isfinite(estimate.value) else None
    return Cell(ours=value, interval=None if ends is None else (100 * ends[0], 100 * ends[1]), star=star)


def _deviation(arm: Arm, method: str, column: str) -> Cell:
    return Cell(ours=float(100 * _values(arm.draws[column], method).std(ddof=1)))


def _detectable_row(arm: Arm, columns: Sequence[str]) -> Row:
    """The median over the pairs of methods of what could be seen with these universes and items."""
    cells = []
    for column in columns:
        found = [arm.draws[column].difference(b, a).interval for a, b in arm.pairs] if arm.panel else []
        known = [detectable_by(interval) for interval in found if interval is not None]
        cells.append(Cell(ours=100 * float(np.median(known)) if known else None))
    return Row(LABEL, tuple(cells), None if arm.panel else NOT_RUN)


def _differences_sheet(plan: UniversesPlan, arm: Arm) -> Sheet:
    draws = arm.draws[AVERAGE]
    found = {pair: draws.difference(pair[1], pair[0]) for pair in arm.pairs}
    adjusted = holm([_two_sided(estimate) for estimate in found.values()])
    rows = []
    for ((first, second), estimate), p in zip(found.items(), adjusted, strict=True):
        above = int((_values(draws, second) > _values(draws, first)).sum())
        cells = (
            cell_of(estimate, star=p < LEVEL),
            Cell(text="-" if estimate.above is None else f"{estimate.above:.3f}"),
            Cell(text=f"{p:.2g}"),
            Cell(text=f"{above} of {len(plan.universes)}"),
        )
        rows.append(Row(f"{label_of(second)} - {label_of(first)}", cells))
    return Sheet(
        name=f"{arm.name}_differences",
        title=f"{plan.experiment.title}: differences of averages, points ({INITS[arm.shared_init]})",
        columns=("difference", "P(above 0)", "p, Holm", "universes above 0"),
        rows=tuple(rows),
        notes=(
            "P(above 0): share of the draws in which the first of the two is better; p: twice the smaller "
            "share, Holm over all pairs of this table",
        ),
        decimals=2,
        signed=True,
    )


def _values(draws: Draws, method: str) -> np.ndarray:
    return draws.values[:, draws.predictors.index(method)]


def _two_sided(estimate: Estimate) -> float:
    """A p value from the share of draws above 0, no smaller than the draws can tell."""
    if estimate.above is None:
        return 1.0
    return min(1.0, max(2 * min(estimate.above, 1 - estimate.above), 2 / (DRAWS + 1)))


def _ranking_sheet(plan: UniversesPlan, arm: Arm) -> Sheet:
    values = arm.draws[AVERAGE].values
    agreement = concordance(values)
    rows = []
    for place, universe in enumerate(plan.universes):
        numbers = zip(values[place], agreement.ranks[place], strict=True)
        cells = [Cell(ours=100 * v, text=f"{100 * v:.1f} ({rank:g}.)") for v, rank in numbers]
        rows.append(Row(f"universe {universe}", tuple(cells)))
    means = agreement.ranks.mean(axis=0)
    rows.append(Row("mean rank", tuple(Cell(text=f"{rank:.2f}") for rank in means)))
    return Sheet(
        name=f"{arm.name}_ranking",
        title=f"{plan.experiment.title}: average and rank in each universe ({INITS[arm.shared_init]})",
        columns=tuple(map(label_of, arm.found)),
        rows=tuple(rows),
        notes=(
            f"Kendall's W, the agreement of the rankings (0 none, 1 the same): {agreement.w:.2f} "
            f"(p {agreement.p:.2g}, Friedman's test)",
        ),
    )


def _notes(plan: UniversesPlan) -> Iterator[str]:
    listed = ", ".join(map(str, plan.universes))
    yield f"{data_note(next(iter(plan.rows.values())))} of the same universe"
    yield (
        f"universes {listed}: sets of adapters that were trained independently; deviation: standard "
        f"deviation over them; intervals: hierarchical bootstrap, {DRAWS:,} draws of universes and of items"
    )
    yield from search_note(plan.rows.values())
    yield "options are searched in each universe by itself, where they are searched"
    yield f"{LABEL}: median over the pairs of methods, power 80 %, level 5 %, paired"


def means_picture(plan: UniversesPlan, arm: Arm) -> Picture:
    """Bars of the means, with their intervals."""
    values = {
        label_of(method): [_value(draws.mean(method)) for draws in arm.draws.values()] for method in arm.found
    }
    title = f"{plan.experiment.title}: {INITS[arm.shared_init]}"
    remark = "whiskers: 95 % intervals over universes and items"
    figure = bars(values, tuple(arm.draws), title=title, ylabel="normalized accuracy (%)", remark=remark)
    return Picture(figure, f"{title}; mean over {len(plan.universes)} universes, {remark}")


def _value(estimate: Estimate) -> Value:
    cell = cell_of(estimate)
    return Value(cell.ours, cell.interval)


def inits_sheet(plan: UniversesPlan, arms: Sequence[Arm]) -> list[Sheet]:
    """Methods with and without shared initial factors, and the gain of one method over another."""
    shared, own = sorted(arms, key=lambda arm: not arm.shared_init)
    both = [method for method in shared.found if method in own.found]
    if shared.panel is None or own.panel is None or not both:
        return []
    rows = []
    for method in both:
        found = [_units(arm, method) for arm in (shared, own)]
        rows.append(_inits_row(label_of(method), *found))
    for first, second in itertools.combinations(both, 2):
        gains = [_units(arm, second) - _units(arm, first) for arm in (shared, own)]
        rows.append(_inits_row(f"{label_of(second)} - {label_of(first)}", *gains))
    return [
        Sheet(
            name=f"{plan.experiment.name}_inits",
            title=f"{plan.experiment.title}: normalized accuracy, %, average over tasks",
            columns=("shared", "own", "shared - own"),
            rows=tuple(rows),
            notes=(
                "intervals: Student's over universes; those of the two kinds of sets are paired by number",
            ),
            decimals=2,
        )
    ]


def _units(arm: Arm, method: str) -> np.ndarray:
    return _values(arm.draws[AVERAGE], method)


def _inits_row(label: str, shared: np.ndarray, own: np.ndarray) -> Row:
    parts = (shared, own, shared - own)
    return Row(label, tuple(cell_of(mean_of_units(part.tolist())) for part in parts))


ALIGNMENT = {
    "CKA, dW x": ("panels", "lora", "mean_off_diagonal"),
    "CKA, KnOTS basis": ("panels", "knots", "mean_off_diagonal"),
    "cosine": ("geometry", "lora", "mean_off_diagonal", "cosines"),
    "overlap of column spaces": ("geometry", "lora", "mean_off_diagonal", "columns"),
    "overlap of row spaces": ("geometry", "lora", "mean_off_diagonal", "rows"),
}
"""Column -> where its number is in the record of an analysis."""


def alignment_sheet(plan: UniversesPlan, found: Mapping[bool, Sequence[Run]]) -> list[Sheet]:
    """How alike the updates of two tasks are, over universes, for every kind of sets."""
    if not found:
        return []
    numbers = {
        shared_init: {column: [number_at(run, path) for run in runs] for column, path in ALIGNMENT.items()}
        for shared_init, runs in found.items()
    }
    rows = [Row(INITS[init], tuple(_plain(values) for values in by.values())) for init, by in numbers.items()]
    if len(numbers) > 1:
        pairs = [(numbers[True][column], numbers[False][column]) for column in ALIGNMENT]
        gaps = [[a - b for a, b in zip(*pair, strict=True)] for pair in pairs]
        rows.append(Row("shared - own", tuple(_plain(gap) for gap in gaps)))
    return [
        Sheet(
            name=f"{plan.experiment.name}_alignment",
            title=f"{plan.experiment.title}: how alike the updates of two tasks are (-1 to 1)",
            columns=tuple(ALIGNMENT),
            rows=tuple(rows),
            notes=("means over pairs of tasks and universes; intervals: Student's over universes",),
            decimals=3,
        )
    ]


def number_at(run: Run, path: Sequence[str]) -> float:
    """A number of a record; NaN where it is not defined."""
    value: Any = run.metrics
    for key in path:
        value = value[key]
    return float("nan") if value is None else float(value)


def _plain(values: Sequence[float]) -> Cell:
    estimate = mean_of_units(values)
    return Cell(ours=estimate.value if np.isfinite(estimate.value) else None, interval=estimate.interval)
