"""Differences of a table's methods over the tiny CLIP, against the stored predictions themselves."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import binomtest

from knots.pipelines import MergePlan
from knots.pipelines.reproduce.experiment import Experiment
from knots.pipelines.reproduce.table_plan import Paper, RowPlan, TablePlan
from knots.pipelines.reproduce.tables import run_table
from knots.reporting.published import Figure, Published
from tests.miniatures import tiny_suite

Plans = Callable[..., MergePlan]
QUIET = Console(quiet=True)
FACTOR = 1.959964 + 0.841621
LABELS = ("Sum", "TIES", "KnOTS-TIES")
METHODS = {"Sum": "task_arithmetic", "TIES": "ties", "KnOTS-TIES": "knots_ties"}
SIZES = {"numbers": 210, "patterns": 340, "digits": 130}


def table(plan: Plans, tmp_path, *, run=True, figures=None, **own) -> TablePlan:
    """Three methods and their baselines; `figures` are of Table 1."""
    own = {"mode": "per_task", "suite": tiny_suite(SIZES), "scale": 4.0, **own}
    rows = [
        RowPlan("Fine-tuned", "finetuned", plan(kind="finetuned", **{**own, "scale": 1.0})),
        RowPlan("Sum", "task_arithmetic", plan(space="full", rule="sum", **{**own, "density": 1.0})),
        RowPlan("TIES", "ties", plan(space="full", **own)),
        RowPlan("KnOTS-TIES", "knots_ties", plan(**own)),
    ]
    paper = Paper(("1",), "tiny", "joint" if own["mode"] == "joint" else "per_task")
    experiment = Experiment("tiny_table", "A tiny table", tmp_path / "outputs", {"experiment": {}}, run)
    return TablePlan(experiment, tuple(rows), paper, Published(figures or {}))


def published(metric: str, **values: float) -> dict:
    setting = "joint" if metric.startswith("hits") else "per_task"
    return {
        ("1", "tiny", setting, method, metric, "average"): Figure(value, "a digest", method == "ties")
        for method, value in values.items()
    }


def stored(product) -> dict[str, pd.DataFrame]:
    """Label -> predictions."""
    outcomes = dict(zip(("Fine-tuned", *LABELS), product.outcomes, strict=True))
    return {label: pd.read_parquet(o.run.folder / "predictions.parquet") for label, o in outcomes.items()}


def right(rows: pd.DataFrame) -> pd.Series:
    return rows["prediction"] == rows["label"]


def literal_holm(p: dict) -> dict:
    adjusted, highest = {}, 0.0
    for place, (key, value) in enumerate(sorted(p.items(), key=lambda entry: entry[1])):
        highest = max(highest, min(1.0, (len(p) - place) * value))
        adjusted[key] = highest
    return adjusted


@pytest.mark.parametrize("mode", ["per_task", "joint"])
def test_every_pair_stands_with_its_difference_and_holm_s_stars(plan: Plans, tmp_path, mode: str):
    product = run_table(table(plan, tmp_path, mode=mode), QUIET)
    (sheet,) = product.details
    assert (sheet.name, sheet.signed) == ("tiny_table_differences", True)
    pairs = list(combinations(LABELS, 2))
    assert [row.label for row in sheet.rows] == [f"{below} - {above}" for above, below in pairs]
    values = {row.label: [cell.ours for cell in row.cells] for row in product.sheets[0].rows}
    found, p, stars = stored(product), {}, {}
    for (above, below), row in zip(pairs, sheet.rows, strict=True):
        for column, cell, high, low in zip(
            sheet.columns, row.cells, values[below], values[above], strict=True
        ):
            assert cell.ours == pytest.approx(high - low)
            assert cell.interval[0] <= cell.ours <= cell.interval[1]
            stars[above, below, column] = cell.star
            if column == "average":
                # Two-sided and normal, with the deviation that the interval has.
                error = (cell.interval[1] - cell.interval[0]) / 2 / 1.96
                p[above, below, column] = 2 * (1 - norm_cdf(abs(cell.ours) / error))
                continue
            if mode == "joint":
                first, second = (found[label]["joint_rank"] <= int(column[5:]) for label in (above, below))
            else:
                first, second = (
                    right(found[label])[found[label]["task"] == column] for label in (above, below)
                )
            only = int((first & ~second).sum()), int((second & ~first).sum())
            p[above, below, column] = binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
    adjusted = literal_holm(p)
    # Averages near the border may fall on either side here, for the deviation is a rough one.
    sure = {key for key, value in adjusted.items() if not 0.03 < value < 0.08}
    assert {key for key in sure if stars[key]} == {key for key in sure if adjusted[key] <= 0.05}
    assert any(f"{len(p)} tests: exact McNemar" in note for note in sheet.notes)


def norm_cdf(value: float) -> float:
    from scipy.stats import norm

    return float(norm.cdf(value))


def test_the_last_row_is_the_median_pair_s_detectable_difference(plan: Plans, tmp_path):
    product = run_table(table(plan, tmp_path), QUIET)
    sheet, found = product.sheets[0], stored(product)
    last = sheet.rows[-1]
    assert last.label == "minimal detectable difference"
    for column, cell in zip(sheet.columns[:-1], last.cells, strict=False):
        part = {label: right(rows)[rows["task"] == column].astype(float) for label, rows in found.items()}
        ceiling, n = part["Fine-tuned"].mean(), SIZES[column]
        errors = []
        for above, below in combinations(LABELS, 2):
            gap = part[below].mean() - part[above].mean()
            parts = (part[below] - part[above]) / ceiling - gap * part["Fine-tuned"] / ceiling**2
            errors.append(100 * parts.std(ddof=0) / np.sqrt(n))
        # The delta method against 2,000 draws.
        assert cell.ours == pytest.approx(FACTOR * np.median(errors), rel=0.12)
    assert last.cells[-1].ours < max(cell.ours for cell in last.cells[:-1])
    assert any("median over 3 pairs" in note and "power 80 %" in note for note in sheet.notes)
    assert any("pairs of methods differ significantly in average" in note for note in sheet.notes)


def test_published_gaps_below_it_are_faint(plan: Plans, tmp_path):
    figures = published("normalized_accuracy", ties=60.0, knots_ties=60.1, task_arithmetic=20.0)
    product = run_table(table(plan, tmp_path, figures=figures), QUIET)
    differences = product.sheets[1]  # with what was published it stands beside the table
    gaps = {row.label: row.cells[-1] for row in differences.rows}
    least = product.sheets[0].rows[-1].cells[-1].ours
    assert 0.1 < least < 40
    shown = {label: (cell.published, cell.faint) for label, cell in gaps.items()}
    assert shown == {
        "TIES - Sum": (pytest.approx(40.0), False),
        "KnOTS-TIES - Sum": (pytest.approx(40.1), False),
        "KnOTS-TIES - TIES": (pytest.approx(0.1), True),
    }
    assert [gaps[label].second_hand for label in shown] == [True, False, True]
    assert differences.rows[0].cells[0].published is None
    assert product.details == []


@pytest.mark.parametrize(("mode", "metric"), [("per_task", "normalized_accuracy"), ("joint", "hits@1")])
def test_without_runs_the_table_ends_with_what_can_be_planned(plan: Plans, tmp_path, mode: str, metric: str):
    figures = published(metric, ties=60.0, knots_ties=60.1)
    product = run_table(table(plan, tmp_path, run=False, figures=figures, mode=mode), QUIET)
    last, n = product.sheets[0].rows[-1], np.array(list(SIZES.values()))
    if mode == "joint":
        expected = [FACTOR * np.sqrt(0.05 / n.sum())] * 4
    else:
        errors = FACTOR * np.sqrt(0.05 / n)
        expected = [*errors, np.sqrt((errors**2).sum()) / 3]
    assert [cell.ours for cell in last.cells] == pytest.approx([100 * value for value in expected])
    (note,) = (note for note in product.sheets[0].notes if note.startswith("minimal detectable"))
    assert "planned, for two methods of which only one is right on 5 % of the items" in note
    assert ("no fine-tuned ones are known" in note) == (mode == "per_task")
    (row,) = product.sheets[1].rows
    column = product.sheets[1].columns.index("average" if mode == "per_task" else "hits@1")
    assert (row.label, row.missing, row.cells[column].faint) == ("KnOTS-TIES - TIES", "not run", True)


def test_without_runs_and_figures_there_is_no_sheet_of_differences(plan: Plans, tmp_path):
    product = run_table(table(plan, tmp_path, run=False), QUIET)
    assert len(product.sheets) == 1
    assert product.details == []


def test_what_is_planned_is_normalized_by_what_is_known(plan: Plans, tmp_path):
    whole = table(plan, tmp_path)
    one = run_table(replace(whole, rows=whole.rows[:2]), QUIET)
    share = right(stored_one(one)).groupby(stored_one(one)["task"]).mean()
    cells = dict(zip(one.sheets[0].columns, one.sheets[0].rows[-1].cells, strict=True))
    for task, n in SIZES.items():
        assert cells[task].ours == pytest.approx(100 * FACTOR * np.sqrt(0.05 / n) / share[task])
    assert any("normalized by measured fine-tuned accuracies" in note for note in one.sheets[0].notes)


def stored_one(product) -> pd.DataFrame:
    return pd.read_parquet(product.outcomes[0].run.folder / "predictions.parquet")


def test_published_denominators_have_no_error(plan: Plans, tmp_path):
    suite = tiny_suite(SIZES)
    known = tuple(replace(task, published={"tiny": 50.0}) for task in suite.tasks)
    made = table(plan, tmp_path, suite=replace(suite, tasks=known), normalize_by="published")
    product = run_table(made, QUIET)
    found, (sheet,) = stored(product), product.details
    task = found["TIES"]["task"] == "digits"
    gap = right(found["KnOTS-TIES"])[task].mean() - right(found["TIES"])[task].mean()
    assert sheet.rows[-1].cells[2].ours == pytest.approx(100 * gap / 0.5)


def test_predictions_that_are_gone_leave_the_table(plan: Plans, tmp_path):
    first = run_table(table(plan, tmp_path), QUIET)
    (first.outcomes[-1].run.folder / "predictions.parquet").unlink()
    product = run_table(table(plan, tmp_path, run=False), QUIET)
    assert "differences of methods" in product.failures
    assert all(row.missing is None for row in product.sheets[0].rows)
    assert any("planned" in note for note in product.sheets[0].notes)
