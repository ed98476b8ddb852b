"""How accuracies against the number of merged tasks are shown: means over subsets, and each subset itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from knots.evaluation.intervals import DRAWS, mean_interval
from knots.evaluation.summary import BOOTSTRAP_SEED
from knots.pipelines.reproduce.count_plan import CountsPlan, Subset
from knots.pipelines.reproduce.experiment import NOT_RUN, Picture
from knots.pipelines.reproduce.methods import (
    Found,
    data_note,
    label_of,
    options_note,
    published_cell,
    search_note,
)
from knots.pipelines.reproduce.table_plan import AVERAGE, merge_of
from knots.pipelines.search.plan import SearchPlan
from knots.reporting.charts import lines_with_bands
from knots.reporting.comparison import average
from knots.reporting.sheets import Cell, Row, Sheet
from knots.runs import Run

Runs = dict[str, dict[Subset, Run]]
"""Method -> tasks that were merged -> run."""


def means_sheet(
    plan: CountsPlan, runs: Runs, found: Mapping[str, Found], failures: Mapping[str, str]
) -> Sheet:
    """The table: a method a row, a number of tasks a column.

    Args:
        plan: the experiment.
        runs: what was run.
        found: method -> its run over all tasks.
        failures: what could not be run -> why.
    """
    rows = []
    for method in plan.rows:
        cells = tuple(_cell(plan, method, count, runs[method]) for count in plan.subsets)
        rows.append(Row(label_of(method), cells, _missing(method, runs, failures)))
    return Sheet(
        name=plan.experiment.name,
        title=f"{plan.experiment.title}: normalized accuracy, %, mean over subsets of the tasks",
        columns=tuple(f"{count} tasks" for count in plan.subsets),
        rows=tuple(rows),
        notes=tuple(_notes(plan, found)),
    )


def _missing(method: str, runs: Runs, failures: Mapping[str, str]) -> str | None:
    """Why a method has no number at all."""
    if runs[method]:
        return None
    label = label_of(method)
    reasons = (why for what, why in failures.items() if what == label or what.startswith(f"{label} on "))
    return next(reasons, NOT_RUN)


def _cell(plan: CountsPlan, method: str, count: int, runs: Mapping[Subset, Run]) -> Cell:
    """Mean and interval over the subsets of one number of tasks; all tasks beside what was published."""
    subsets = plan.subsets[count]
    cell = Cell()
    if count == len(merge_of(plan.first).suite.tasks):
        where = {"method": method, "metric": "normalized_accuracy", "column": AVERAGE}
        cell = published_cell(plan.published, plan.paper, **where)
    values = _values(subsets, runs)
    if not values:
        return cell
    mean, interval = spread(values)
    here = str(len(values)) if len(values) == len(subsets) else f"{len(values)} of {len(subsets)}"
    note = f"{here} subset{'s' if len(subsets) > 1 else ''}"
    run = runs[subsets[0]].run_id if len(subsets) == 1 else None
    return replace(cell, ours=mean, interval=interval, run=run, note=note)


def _values(subsets: Sequence[Subset], runs: Mapping[Subset, Run]) -> list[float]:
    """Normalized averages in percent of the subsets that were run and have one."""
    values = [average(runs[s].metrics, "normalized").percent for s in subsets if s in runs]
    return [value for value in values if value is not None]


def spread(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Mean over subsets, and what a bootstrap over them says of it; no interval for a single one."""
    return float(np.mean(values)), mean_interval(values, seed=BOOTSTRAP_SEED)


def _notes(plan: CountsPlan, found: Mapping[str, Found]) -> list[str]:
    most = max(plan.subsets)
    searched = [row for row in plan.rows.values() if isinstance(row, SearchPlan)]
    split = searched[0].merge.scoring.split if searched else None
    source = (
        f"searched once, on the {split} split of all {most} tasks" if split else f"those of all {most} tasks"
    )
    return [
        data_note(plan.first),
        f"at most {plan.limit} distinct subsets of each number of tasks, drawn with seed {plan.seed}; a "
        "merge is of a subset's tasks alone and is scored on these alone",
        f"intervals are descriptive: 95 % percentiles of {DRAWS:,} bootstrap draws over subsets, which share "
        f"tasks and are no independent sample; {most} tasks are one subset, which has no interval",
        f"options are {source}, not tuned for any subset",
        *search_note(plan.rows.values()),
        *(options_note(label_of(method), outcome) for method, outcome in found.items()),
    ]


def subsets_sheet(plan: CountsPlan, runs: Runs) -> Sheet:
    """Every subset by itself, with the run behind each number."""
    rows = []
    for subset in plan.every_subset:
        cells = []
        for method in plan.rows:
            run = runs[method].get(subset)
            value = None if run is None else average(run.metrics, "normalized")
            known = (
                Cell()
                if run is None or value is None
                else Cell(ours=value.percent, interval=value.interval, run=run.run_id)
            )
            cells.append(known)
        missing = None if any(subset in runs[method] for method in plan.rows) else NOT_RUN
        rows.append(Row(f"{len(subset)}: {', '.join(subset)}", tuple(cells), missing))
    return Sheet(
        name=f"{plan.experiment.name}_subsets",
        title=f"{plan.experiment.title}: normalized accuracy, %, of every subset of the tasks",
        columns=tuple(label_of(method) for method in plan.rows),
        rows=tuple(rows),
        notes=("intervals: paired bootstrap over the items of a subset",),
    )


def means_picture(plan: CountsPlan, runs: Runs) -> Picture:
    """The means as lines over the number of tasks, with their intervals as bands."""
    series = {}
    for method in plan.rows:
        points = []
        for count, subsets in plan.subsets.items():
            values = _values(subsets, runs[method])
            if values:
                mean, interval = spread(values)
                points.append((count, mean, *(interval or (None, None))))
        if points:
            series[label_of(method)] = points
    figure = lines_with_bands(
        series,
        title=plan.experiment.title,
        xlabel="number of merged tasks",
        ylabel="normalized accuracy (%)",
        xticks=list(plan.subsets),
        remark="bands: 95 % bootstrap over subsets, descriptive",
    )
    sizes = ", ".join(f"{count}: {len(subsets)}" for count, subsets in plan.subsets.items())
    caption = (
        f"{plan.experiment.title}: normalized accuracy on the merged tasks alone, mean over subsets of the "
        f"tasks (tasks: subsets; {sizes}). Bands are descriptive: 95 % percentiles of a bootstrap over "
        "subsets, which share tasks and are no independent sample."
    )
    return Picture(figure, caption)
