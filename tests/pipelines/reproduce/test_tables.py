"""Tables over the tiny CLIP: every number is one of a run, and what is missing is said."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from knots.errors import KnotsError
from knots.pipelines import MergePlan
from knots.pipelines.reproduce import experiment as experiments
from knots.pipelines.reproduce.experiment import Experiment, keep
from knots.pipelines.reproduce.table_plan import Paper, RowPlan, TablePlan
from knots.pipelines.reproduce.tables import run_table
from knots.pipelines.search.plan import SearchPlan
from knots.reporting.published import Figure, Published
from knots.reporting.sheets import Sheet
from knots.search import Axis

Plans = Callable[..., MergePlan]
Searches = Callable[..., SearchPlan]
QUIET = Console(quiet=True)
PAPER = Paper(("9", "1"), "tiny", "per_task")


def published(**figures: float) -> Published:
    """Averages of Table 1 by method."""
    return Published(
        {
            ("1", "tiny", "per_task", method, "normalized_accuracy", "average"): Figure(
                value, "a digest", True
            )
            for method, value in figures.items()
        }
    )


def table(rows, tmp_path, *, run=True, figures=None) -> TablePlan:
    experiment = Experiment("tiny_table", "A tiny table", tmp_path / "outputs", {"experiment": {}}, run)
    paper = None if figures is None else PAPER
    return TablePlan(experiment, tuple(rows), paper, published(**(figures or {})))


def right(run) -> pd.Series:
    """Task -> share of right predictions."""
    found = pd.read_parquet(run.folder / "predictions.parquet")
    return (found["prediction"] == found["label"]).astype(float).groupby(found["task"]).mean()


def rows_of(plan: Plans, **changes) -> list[RowPlan]:
    own = {"mode": "per_task", **changes}
    return [
        RowPlan("Fine-tuned", "finetuned", plan(kind="finetuned", **own)),
        RowPlan("TIES", "ties", plan(space="full", **own)),
        RowPlan("KnOTS-TIES", "knots_ties", plan(**own)),
    ]


def test_a_row_is_its_run_s_numbers_beside_the_published_ones(plan: Plans, tmp_path):
    product = run_table(table(rows_of(plan), tmp_path, figures={"knots_ties": 68.0}), QUIET)
    (sheet,) = product.sheets
    assert sheet.columns == ("numbers", "patterns", "digits", "average")
    outcomes = dict(zip(["Fine-tuned", "TIES", "KnOTS-TIES"], product.outcomes, strict=True))
    ceiling = right(outcomes["Fine-tuned"].run)
    for row in sheet.rows[:-1]:
        share = right(outcomes[row.label].run)
        expected = 100 * (share if row.label == "Fine-tuned" else share / ceiling)
        values = [expected[task] for task in sheet.columns[:-1]]
        assert [cell.ours for cell in row.cells] == pytest.approx([*values, np.mean(values)])
        assert {cell.run for cell in row.cells} == {outcomes[row.label].run.run_id}
        assert row.missing is None
    average = sheet.rows[2].cells[-1]
    assert (average.published, average.second_hand) == (68.0, True)
    assert average.difference == pytest.approx(average.ours - 68.0)
    assert [cell.published for cell in sheet.rows[1].cells] == [None] * 4
    assert any("scale 1, density 0.3" in note and "KnOTS-TIES" in note for note in sheet.notes)


def test_jointly_the_columns_are_hits(plan: Plans, tmp_path):
    rows = [RowPlan("KnOTS-TIES", "knots_ties", plan(mode="joint"))]
    product = run_table(table(rows, tmp_path), QUIET)
    ranks = pd.read_parquet(product.outcomes[0].run.folder / "predictions.parquet")["joint_rank"]
    row, _ = product.sheets[0].rows
    assert product.sheets[0].columns == ("hits@1", "hits@3", "hits@5", "hits@10")
    expected = [100 * float((ranks <= k).mean()) for k in (1, 3, 5, 10)]
    assert [cell.ours for cell in row.cells] == pytest.approx(expected)


def test_a_searched_row_is_the_best_on_the_test_split_with_mean_and_deviation_below(
    search: Searches, tmp_path
):
    searched = search(mode="per_task", drop=0.5, density=1.0, seeds=(1, 2), axes=(Axis("scale", (0.5, 1.0)),))
    product = run_table(table([RowPlan("DARE", "dare_ties", searched)], tmp_path), QUIET)
    best, mean, deviation, _ = product.sheets[0].rows
    assert best.cells[-1].run == product.outcomes[0].run.run_id
    assert product.outcomes[0].run.metrics["split"] == "test"
    assert (mean.label, deviation.label) == ("DARE, mean of 2 seeds", "DARE, deviation of 2 seeds")
    record = json.loads(next((tmp_path / "outputs" / "search").glob("[!.]*/metrics.json")).read_text())
    assert mean.cells[-1].ours == pytest.approx(record["test"]["mean"])
    assert deviation.cells[-1].ours == pytest.approx(record["test"]["deviation"])
    (note,) = [note for note in product.sheets[0].notes if note.startswith("DARE:")]
    assert "4 evaluations" in note
    assert "on the edge: scale" in note
    assert any("grid search on the validation split" in note for note in product.sheets[0].notes)


def test_what_is_not_run_is_said_and_nothing_is_run(plan: Plans, tmp_path):
    rows = rows_of(plan)
    run_table(table(rows[:2], tmp_path), QUIET)
    before = sorted((tmp_path / "outputs" / "merge").iterdir())
    shown = run_table(table(rows, tmp_path, run=False, figures={"knots_ties": 68.0}), QUIET)
    assert sorted((tmp_path / "outputs" / "merge").iterdir()) == before
    assert [row.missing for row in shown.sheets[0].rows[:-1]] == [None, None, "not run"]
    cell = shown.sheets[0].rows[2].cells[-1]
    assert (cell.ours, cell.published) == (None, 68.0)


def test_a_row_that_cannot_be_run_leaves_the_others_and_says_why(plan: Plans, tmp_path):
    bad = RowPlan("Bad", "bad", replace(plan(mode="per_task"), options={**plan().options, "density": 7.0}))
    rows = rows_of(plan)
    product = run_table(table([rows[0], bad, rows[1]], tmp_path), QUIET)
    assert [row.missing is None for row in product.sheets[0].rows[:-1]] == [True, False, True]
    assert "density" in product.sheets[0].rows[1].missing
    assert list(product.failures) == ["Bad"]


def test_a_table_that_is_killed_goes_on_and_ends_with_the_same_sheet(
    plan: Plans, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    other = [replace(row, plan=replace(row.plan, root=tmp_path / "b" / "merge")) for row in rows_of(plan)]
    undisturbed = run_table(table(other, tmp_path), QUIET)
    calls, run = [], experiments.run_merge

    def killed(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(*args)

    monkeypatch.setattr(experiments, "run_merge", killed)
    with pytest.raises(KeyboardInterrupt):
        run_table(table(rows_of(plan), tmp_path), QUIET)
    monkeypatch.setattr(experiments, "run_merge", run)
    resumed = run_table(table(rows_of(plan), tmp_path), QUIET)
    assert resumed.sheets == undisturbed.sheets
    assert not resumed.outcomes[0].run.fresh


def test_rows_of_one_model_share_what_they_load(plan: Plans, tmp_path, monkeypatch: pytest.MonkeyPatch):
    loaded, load = [], experiments.workshop_for
    monkeypatch.setattr(experiments, "workshop_for", lambda plan: loaded.append(1) or load(plan))
    run_table(table(rows_of(plan), tmp_path), QUIET)
    assert len(loaded) == 1


def test_the_folder_holds_tables_figures_and_the_record(plan: Plans, tmp_path):
    made = table(rows_of(plan), tmp_path, figures={"ties": 60.0})
    product = run_table(made, QUIET)
    kept = keep(made.experiment, product)
    assert kept.folder.parent == tmp_path / "outputs" / "tiny_table"
    assert {path.name for path in (kept.folder / "tables").iterdir()} == {
        f"tiny_table{what}.{ending}"
        for what in ("", "_differences")
        for ending in ("txt", "md", "tex", "csv")
    }
    assert {path.name for path in (kept.folder / "figures").iterdir()} == {"bars.png", "bars.pdf"}
    assert kept.metrics["record"] == "experiment"
    assert [Sheet.from_json(sheet) for sheet in kept.metrics["sheets"]] == [*product.sheets, *product.details]
    assert set(kept.metrics["runs"]) == {path.name for path in (tmp_path / "outputs" / "merge").iterdir()}
    assert keep(made.experiment, product).run_id == kept.run_id


def test_a_table_of_failures_is_a_table(plan: Plans, tmp_path, monkeypatch: pytest.MonkeyPatch):
    def fails(*_):
        raise KnotsError("the hub is down")

    monkeypatch.setattr(experiments, "run_merge", fails)
    product = run_table(table(rows_of(plan), tmp_path), QUIET)
    assert {row.missing for row in product.sheets[0].rows[:-1]} == {"the hub is down"}
    assert product.pictures == {}
    kept = keep(table(rows_of(plan), tmp_path).experiment, product)
    assert any("could not be run: the hub is down" in note for note in kept.metrics["notes"])
