"""A table of the paper: a method a row, our number beside the published one in each cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from rich.console import Console

from knots.pipelines.bounds import absent
from knots.pipelines.reproduce.costs import add_costs
from knots.pipelines.reproduce.differences import (
    compare_methods,
    detectable_row,
    differences_sheet,
    told,
)
from knots.pipelines.reproduce.experiment import NOT_RUN, Picture, Product, Runner
from knots.pipelines.reproduce.methods import (
    Found,
    best_of,
    data_note,
    options_note,
    published_cell,
    run_method,
    search_note,
)
from knots.pipelines.reproduce.table_plan import AVERAGE, RowPlan, TablePlan
from knots.pipelines.search.plan import SearchPlan
from knots.pipelines.search.run import SearchOutcome
from knots.reporting.charts import bars
from knots.reporting.comparison import Metrics, Value, accuracy, average, joint, normalized
from knots.reporting.sheets import Cell, Row, Sheet


def run_table(plan: TablePlan, console: Console) -> Product:
    """Run the rows that are missing, and put all of them beside the published figures.

    A row that cannot be run does not keep the others from it: the table says why it is missing. It is no
    failure where the model has no such adapter.
    """
    runner, product = Runner(plan.experiment, console), Product()
    found: dict[str, Found] = {}
    for row in plan.rows:
        if absent(row.merge) is not None:
            continue
        outcome = product.attempt(row.label, partial(run_method, runner, row.plan))
        if outcome is not None:
            found[row.label] = outcome
            product.took(best_of(outcome))
    tests = product.attempt("differences of methods", partial(compare_methods, plan, found)) or {}
    least, how = detectable_row(plan, found, tests)
    sheet = _sheet(plan, found, product.failures)
    notes = (*sheet.notes, how, *told(plan, tests))
    product.sheets.append(replace(sheet, rows=(*sheet.rows, least), notes=notes))
    if plan.costs:
        add_costs(plan, runner, found, product)
    differences = differences_sheet(plan, tests, least, published_figure)
    if differences is not None:
        # What was published is to be seen with the table: which of its gaps are too small to be real.
        (product.sheets if differences.compares else product.details).append(differences)
    if found:
        product.pictures["bars"] = _picture(plan, found)
    return product


def _sheet(plan: TablePlan, found: Mapping[str, Found], failures: Mapping[str, str]) -> Sheet:
    rows: list[Row] = []
    for row in plan.rows:
        outcome = found.get(row.label)
        cells = [_cell(plan, row, column, outcome) for column in plan.columns]
        missing = None if outcome is not None else failures.get(row.label) or _lacking(row) or NOT_RUN
        rows.append(Row(row.label, tuple(cells), missing))
        if isinstance(outcome, SearchOutcome) and len(outcome.tests) > 1:
            rows.extend(_seeds_rows(plan, row, outcome))
    joint_only = plan.columns[0].startswith("hits@")
    unit = "hits, %" if joint_only else "normalized accuracy, % (zero-shot, fine-tuned: accuracy, %)"
    title = f"{plan.experiment.title}: {unit}"
    return Sheet(plan.experiment.name, title, plan.columns, tuple(rows), tuple(_notes(plan, found)))


def _lacking(row: RowPlan) -> str | None:
    """In a few words what a row lacks; a note of the table says what to do about it."""
    reason = absent(row.merge)
    return None if reason is None else reason.partition(";")[0]


def _cell(plan: TablePlan, row: RowPlan, column: str, outcome: Found | None) -> Cell:
    cell = published_figure(plan, row, column)
    if outcome is None:
        return cell
    best = best_of(outcome).run
    value = measured(best.metrics, row, column)
    return replace(cell, ours=value.percent, interval=value.interval, run=best.run_id)


def published_figure(plan: TablePlan, row: RowPlan, column: str) -> Cell:
    """A cell with what was published for it; an empty one where nothing was."""
    if row.method is None:
        return Cell()
    hits = column.startswith("hits@")
    metric = column if hits else "accuracy" if row.whole else "normalized_accuracy"
    where = {"method": row.method, "metric": metric, "column": AVERAGE if hits else column}
    paper = plan.paper
    if paper is not None and row.table is not None:
        paper = replace(paper, tables=(row.table,))
    return published_cell(plan.published, paper, **where)


def _seeds_rows(plan: TablePlan, row: RowPlan, search: SearchOutcome) -> list[Row]:
    """Mean and deviation over the seeds of DARE's masks, each with the options that its own search found."""
    tests = search.tests.values()
    values = [[measured(t.run.metrics, row, column).percent for t in tests] for column in plan.columns]
    known = [None if None in some else np.array(some, dtype=np.float64) for some in values]
    means = tuple(Cell(None if some is None else float(some.mean())) for some in known)
    deviations = tuple(Cell(None if some is None else float(some.std(ddof=1))) for some in known)
    return [
        Row(f"{row.label}, mean of {len(tests)} seeds", means),
        Row(f"{row.label}, deviation of {len(tests)} seeds", deviations),
    ]


def measured(metrics: Metrics, row: RowPlan, column: str) -> Value:
    """The number of a cell: hits, or accuracies, normalized ones for what is not a baseline."""
    if column.startswith("hits@"):
        return joint(metrics, column)
    if column == AVERAGE:
        return average(metrics, "accuracy" if row.whole else "normalized")
    return accuracy(metrics, column) if row.whole else normalized(metrics, column)


def _notes(plan: TablePlan, found: Mapping[str, Found]) -> list[str]:
    plans = [row.plan for row in plan.rows]
    oracle = plan.columns[0].startswith("hits@") and any(row.merge.kind == "finetuned" for row in plan.rows)
    told = ["fine-tuned, jointly: each item by its own task's adapter, an oracle"] if oracle else []
    notes = [data_note(next((p for p in plans if isinstance(p, SearchPlan)), plans[0])), *told]
    notes += search_note(plans)
    lacking = {row.label: absent(row.merge) for row in plan.rows}
    notes += [f"{label}: {reason}" for label, reason in lacking.items() if reason is not None]
    return [*notes, *(options_note(label, outcome) for label, outcome in found.items())]


def _picture(plan: TablePlan, found: Mapping[str, Found]) -> Picture:
    """Bars of what is compared: everything jointly, else what is normalized, if anything is."""
    joint_only = plan.columns[0].startswith("hits@")
    rows = [row for row in plan.rows if row.label in found]
    shown = [row for row in rows if joint_only or not row.whole] or rows
    values = {
        row.label: [measured(best_of(found[row.label]).run.metrics, row, column) for column in plan.columns]
        for row in shown
    }
    whole = not joint_only and shown[0].whole
    unit = "hits (%)" if joint_only else "accuracy (%)" if whole else "normalized accuracy (%)"
    figure = bars(values, plan.columns, title=plan.experiment.title, ylabel=unit)
    intervals = "Wilson" if joint_only or whole else "bootstrap over items"
    return Picture(figure, f"{plan.experiment.title}: {unit}; whiskers: 95 % intervals ({intervals})")
