"""A table of the paper: a method a row, our number beside the published one in each cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from rich.console import Console

from knots.pipelines.experiment import NOT_RUN, Picture, Product, Runner
from knots.pipelines.merge import Outcome
from knots.pipelines.plans import MergePlan
from knots.pipelines.search import SearchOutcome
from knots.pipelines.search_plan import SearchPlan
from knots.pipelines.table_plan import AVERAGE, RowPlan, TablePlan
from knots.reporting.charts import bars
from knots.reporting.comparison import Metrics, Value, accuracy, average, joint, normalized
from knots.reporting.sheets import Cell, Row, Sheet

Found = Outcome | SearchOutcome


def run_table(plan: TablePlan, console: Console) -> Product:
    """Run the rows that are missing, and put all of them beside the published figures.

    A row that cannot be run does not keep the others from it: the table says why it is missing.
    """
    runner, product = Runner(plan.experiment, console), Product()
    found: dict[str, Found] = {}
    for row in plan.rows:
        outcome = product.attempt(row.label, partial(_run, runner, row.plan))
        if outcome is not None:
            found[row.label] = outcome
            product.took(_best(outcome))
    product.sheets.append(_sheet(plan, found, product.failures))
    if found:
        product.pictures["bars"] = _picture(plan, found)
    return product


def _run(runner: Runner, plan: MergePlan | SearchPlan) -> Found | None:
    return runner.search(plan) if isinstance(plan, SearchPlan) else runner.merge(plan)


def _best(outcome: Found) -> Outcome:
    """What a row shows: the run, or the best of a search on the test split."""
    if isinstance(outcome, SearchOutcome):
        assert outcome.best is not None
        return outcome.best
    return outcome


def _sheet(plan: TablePlan, found: Mapping[str, Found], failures: Mapping[str, str]) -> Sheet:
    rows: list[Row] = []
    for row in plan.rows:
        outcome = found.get(row.label)
        cells = [_cell(plan, row, column, outcome) for column in plan.columns]
        missing = None if outcome is not None else failures.get(row.label, NOT_RUN)
        rows.append(Row(row.label, tuple(cells), missing))
        if isinstance(outcome, SearchOutcome) and len(outcome.tests) > 1:
            rows.extend(_seeds_rows(plan, row, outcome))
    joint_only = plan.columns[0].startswith("hits@")
    unit = "hits, %" if joint_only else "normalized accuracy, % (zero-shot, fine-tuned: accuracy, %)"
    title = f"{plan.experiment.title}: {unit}"
    return Sheet(plan.experiment.name, title, plan.columns, tuple(rows), tuple(_notes(plan, found)))


def _cell(plan: TablePlan, row: RowPlan, column: str, outcome: Found | None) -> Cell:
    cell = _published(plan, row, column)
    if outcome is None:
        return cell
    best = _best(outcome).run
    value = measured(best.metrics, row, column)
    return replace(cell, ours=value.percent, interval=value.interval, run=best.run_id)


def _published(plan: TablePlan, row: RowPlan, column: str) -> Cell:
    """A cell with what was published for it; an empty one where nothing was."""
    if plan.paper is None or row.method is None:
        return Cell()
    joint_only = column.startswith("hits@")
    metric = column if joint_only else "accuracy" if row.whole else "normalized_accuracy"
    for table in plan.paper.tables:
        figure = plan.published.find(
            table=table,
            model=plan.paper.model,
            setting=plan.paper.setting,
            method=row.method,
            metric=metric,
            column=AVERAGE if joint_only else column,
        )
        if figure is not None:
            return Cell(published=figure.value, second_hand=figure.second_hand)
    return Cell()


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
    first = plan.rows[0].merge
    searched = [row.plan for row in plan.rows if isinstance(row.plan, SearchPlan)]
    split = searched[0].test_split if searched else first.scoring.split
    items = sum(task.size(str(split)) for task in first.suite.tasks)
    notes = [f"{split} split of {first.suite.name}, {items:,} items; protocol {first.scoring.protocol}"]
    if not plan.columns[0].startswith("hits@"):
        notes.append(f"normalized by the {first.scoring.normalize_by} fine-tuned accuracies")
    if first.scoring.mode == "joint" and any(row.merge.kind == "finetuned" for row in plan.rows):
        notes.append("fine-tuned, jointly: each item by its own task's adapter, an oracle")
    if searched:
        merge, procedure = searched[0].merge, searched[0].procedure
        notes.append(
            f"options with a number of evaluations: {procedure.name} search on the {merge.scoring.split} "
            f"split, largest {procedure.metric}"
        )
    return [*notes, *(_options_note(label, outcome) for label, outcome in found.items())]


def _options_note(label: str, outcome: Found) -> str:
    """With which options a row was run, where they come from, and which run it is."""
    run = _best(outcome).run
    merge = run.metrics["merge"]
    words = [f"scale {merge['scale']:g}"] if merge.get("scale") is not None else []
    words += [f"density {merge['density']:g}"] if merge.get("rule") == "ties" and not merge["drop"] else []
    words += [f"drop {merge['drop']:g}", f"seed {run.metrics['seed']}"] if merge.get("drop") else []
    told = [", ".join(words)]
    if isinstance(outcome, SearchOutcome):
        record = outcome.run.metrics
        edges = [f"{option} {end}" for option, end in record["edge"].items() if end]
        told += [f"{record['evaluations']} evaluations", f"on the edge: {', '.join(edges) or 'no'}"]
    elif words:
        told.append(merge["source"] or "neutral options, not tuned")
    return f"{label}: {'; '.join(filter(None, [*told, f'run {run.run_id}']))}"


def _picture(plan: TablePlan, found: Mapping[str, Found]) -> Picture:
    """Bars of what is compared: everything jointly, else what is normalized, if anything is."""
    joint_only = plan.columns[0].startswith("hits@")
    rows = [row for row in plan.rows if row.label in found]
    shown = [row for row in rows if joint_only or not row.whole] or rows
    values = {
        row.label: [measured(_best(found[row.label]).run.metrics, row, column) for column in plan.columns]
        for row in shown
    }
    whole = not joint_only and shown[0].whole
    unit = "hits (%)" if joint_only else "accuracy (%)" if whole else "normalized accuracy (%)"
    figure = bars(values, plan.columns, title=plan.experiment.title, ylabel=unit)
    intervals = "Wilson" if joint_only or whole else "bootstrap over items"
    return Picture(figure, f"{plan.experiment.title}: {unit}; whiskers: 95 % intervals ({intervals})")
