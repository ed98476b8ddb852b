"""The sheet of costs over the tiny CLIP: measured once, read afterwards, and shorter merges beside it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from knots.pipelines import MergePlan
from knots.pipelines.reproduce import costs
from knots.pipelines.reproduce.costs import COLUMNS, invariance
from knots.pipelines.reproduce.experiment import Experiment, Product, keep
from knots.pipelines.reproduce.table_plan import RowPlan, TablePlan
from knots.pipelines.reproduce.tables import run_table
from knots.pipelines.search.plan import SearchPlan
from knots.reporting.published import Published
from knots.reporting.sheets import Sheet
from knots.search import Axis

Plans = Callable[..., MergePlan]
QUIET = Console(quiet=True)


def table(rows: list[RowPlan], place: Path, *, run: bool = True, ranks: tuple[int, ...] = (2,)) -> TablePlan:
    experiment = Experiment("tiny_table", "A tiny table", place / "outputs", {"experiment": {}}, run)
    return TablePlan(experiment, tuple(rows), None, Published({}), costs=True, max_ranks=ranks)


def rows_of(plan: Plans, mode: str = "per_task") -> list[RowPlan]:
    return [
        RowPlan("Fine-tuned", "finetuned", plan(kind="finetuned", mode=mode)),
        RowPlan("TIES", "ties", plan(space="full", mode=mode)),
        RowPlan("KnOTS-TIES", "knots_ties", plan(mode=mode)),
        RowPlan("Core-TIES", "core_ties", plan(space="core", mode=mode)),
    ]


def costs_sheet(product: Product) -> Sheet:
    (sheet,) = (sheet for sheet in product.sheets if sheet.name == "tiny_table_costs")
    return sheet


def test_every_merge_has_its_size_cost_and_invariance(plan: Plans, tmp_path: Path):
    sheet = costs_sheet(run_table(table(rows_of(plan), tmp_path), QUIET))
    assert sheet.columns == (*COLUMNS, "average, full", "average, rank 2")
    rows = {row.label: dict(zip(sheet.columns, row.cells, strict=True)) for row in sheet.rows}
    assert list(rows) == ["TIES", "KnOTS-TIES", "Core-TIES"]
    assert rows["TIES"]["output rank"].text == "16"
    assert rows["KnOTS-TIES"]["output rank"].text == "9"  # ranks 2, 3 and 4 together
    assert rows["TIES"]["parameters"].ours > 0
    for row in rows.values():
        assert row["merge time"].text.endswith(" s")
        assert row["peak memory"].text.endswith("B")
    assert rows["KnOTS-TIES"]["invariant to factor changes"].text.startswith("yes (")
    assert rows["Core-TIES"]["invariant to factor changes"].text.startswith("no (0.")
    assert any("measured on: CPU, " in note for note in sheet.notes)


def test_shortened_merges_are_runs_of_their_own(plan: Plans, tmp_path: Path):
    product = run_table(table(rows_of(plan)[2:3], tmp_path), QUIET)
    *_, full, short = costs_sheet(product).rows[0].cells
    assert full.run == product.outcomes[0].run.run_id
    assert short.run in product.runs
    folder = tmp_path / "outputs" / "merge" / short.run
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["merge"]["max_rank"] == 2
    assert short.ours == metrics["average"]["normalized"]
    # Baselines are those of the row: made once.
    assert len(list((tmp_path / "outputs" / "merge").glob("[!.]*"))) == 4


def test_jointly_the_shortened_merges_are_compared_by_hits(plan: Plans, tmp_path: Path):
    sheet = costs_sheet(run_table(table(rows_of(plan, "joint")[2:3], tmp_path), QUIET))
    assert sheet.columns[-2:] == ("hits@1, full", "hits@1, rank 2")
    for cell in sheet.rows[0].cells[-2:]:
        found = pd.read_parquet(tmp_path / "outputs" / "merge" / cell.run / "predictions.parquet")
        assert cell.ours == pytest.approx(100 * float((found["joint_rank"] == 1).mean()))


def test_costs_are_measured_once_and_the_folder_stays(
    plan: Plans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = table(rows_of(plan), tmp_path)
    first = run_table(asked, QUIET)
    kept = keep(asked.experiment, first)
    monkeypatch.setattr(costs, "measure_cost", None)  # would fail
    again = run_table(asked, QUIET)
    assert again.sheets == first.sheets
    assert keep(asked.experiment, again).run_id == kept.run_id
    shown = table(rows_of(plan), tmp_path, run=False)
    assert run_table(shown, QUIET).sheets == first.sheets


def test_other_timings_make_no_other_folder(plan: Plans, tmp_path: Path):
    asked = table(rows_of(plan)[2:3], tmp_path)
    first = run_table(asked, QUIET)
    kept = keep(asked.experiment, first)
    (file,) = (tmp_path / "outputs" / "costs").iterdir()
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "cost": {**values["cost"], "seconds": 1234.0}}))
    slower = run_table(asked, QUIET)
    assert costs_sheet(slower).rows[0].cells[2].text == "1234 s"
    assert keep(asked.experiment, slower).run_id == kept.run_id
    without = run_table(replace(asked, costs=False), QUIET)
    assert keep(asked.experiment, without).run_id != kept.run_id


def test_nothing_is_measured_where_nothing_is_to_be_run(plan: Plans, tmp_path: Path):
    rows = rows_of(plan)
    run_table(replace(table(rows, tmp_path), costs=False), QUIET)
    before = sorted((tmp_path / "outputs").rglob("*"))
    product = run_table(table(rows, tmp_path, run=False), QUIET)
    assert [sheet.name for sheet in product.sheets] == ["tiny_table"]
    assert sorted((tmp_path / "outputs").rglob("*")) == before


def test_a_searched_row_is_measured_with_what_was_found(search: Callable[..., SearchPlan], tmp_path: Path):
    searched = search(mode="per_task", axes=(Axis("scale", (0.5, 1.0)),))
    product = run_table(table([RowPlan("KnOTS-TIES", "knots_ties", searched)], tmp_path), QUIET)
    best = product.outcomes[0].run
    *_, full, short = costs_sheet(product).rows[0].cells
    assert full.run == best.run_id
    metrics = json.loads((tmp_path / "outputs" / "merge" / short.run / "metrics.json").read_text())
    assert metrics["merge"]["scale"] == best.metrics["merge"]["scale"]
    assert (metrics["split"], metrics["merge"]["max_rank"]) == ("test", 2)
    assert metrics["merge"]["source"].startswith("search")


def test_what_cannot_be_measured_is_said(plan: Plans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from knots.errors import KnotsError

    def fails(*_):
        raise KnotsError("too large")

    monkeypatch.setattr(costs, "measure_cost", fails)
    product = run_table(table(rows_of(plan)[2:3], tmp_path), QUIET)
    assert product.failures == {"KnOTS-TIES, costs": "too large"}


@pytest.mark.parametrize(
    ("change", "words"),
    [(2.3e-7, "yes (2e-07)"), (9e-4, "yes (9e-04)"), (1e-3, "no (0.001)"), (0.851, "no (0.85)")],
)
def test_below_a_thousandth_a_merge_counts_as_still(change: float, words: str):
    assert invariance(change) == words
    assert invariance(float("nan")) == "no (NaN)"
