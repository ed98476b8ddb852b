"""Merges of some of the tasks: which ones, what they are compared with, what is made of their numbers."""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from knots.errors import KnotsError
from knots.evaluation.intervals import mean_interval
from knots.pipelines import MergePlan, merge, run_merge
from knots.pipelines.reproduce.count_plan import CountsPlan, draw_subsets, parse_counts
from knots.pipelines.reproduce.counts import run_counts
from knots.pipelines.reproduce.experiment import Experiment, Product, keep
from knots.pipelines.reproduce.subsets import merge_some
from knots.pipelines.search.plan import Procedure, SearchPlan
from knots.reporting.published import Published
from knots.reporting.sheets import Cell
from knots.search import Axis

Plans = Callable[..., MergePlan]

TASKS = ("stanford_cars", "dtd", "eurosat", "gtsrb", "mnist", "resisc45", "sun397", "svhn")
TINY = ("numbers", "patterns", "digits")
SUBSETS = [*combinations(TINY, 2), TINY]
QUIET = Console(quiet=True)


@given(
    names=st.lists(st.text(min_size=1), min_size=2, max_size=8, unique=True),
    limit=st.integers(1, 40),
    seed=st.integers(0, 2**40),
    data=st.data(),
)
def test_subsets_are_distinct_and_as_many_as_asked_for(names, limit, seed, data):
    count = data.draw(st.integers(1, len(names)))
    drawn = draw_subsets(names, count, limit=limit, seed=seed)
    assert len(drawn) == len(set(drawn)) == min(limit, math.comb(len(names), count))
    assert all(len(subset) == count for subset in drawn)
    assert all(list(subset) == [name for name in names if name in subset] for subset in drawn)
    assert draw_subsets(names, count, limit=limit, seed=seed) == drawn
    assert set(drawn) <= set(draw_subsets(names, count, limit=limit + 1, seed=seed))


def test_the_paper_s_numbers_of_subsets():
    numbers = [len(draw_subsets(TASKS, count, limit=28, seed=0)) for count in range(2, 9)]
    assert numbers == [28, 28, 28, 28, 28, 8, 1]
    assert draw_subsets(TASKS, 2, limit=28, seed=0) == tuple(combinations(TASKS, 2))


def test_the_draw_is_that_of_yesterday_and_another_one_of_another_seed():
    drawn = draw_subsets(TASKS, 4, limit=3, seed=0)
    assert drawn == (
        ("stanford_cars", "dtd", "eurosat", "gtsrb"),
        ("dtd", "gtsrb", "resisc45", "sun397"),
        ("eurosat", "mnist", "sun397", "svhn"),
    )
    assert drawn != draw_subsets(TASKS, 4, limit=3, seed=1)
    assert drawn != draw_subsets(TASKS[::-1], 4, limit=3, seed=0)


@pytest.fixture
def counts(plan: Plans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., CountsPlan]:
    """Makes experiments over the three tiny tasks, all of their subsets, and two methods."""
    # The chart of each run takes longer than all else, and is tested with the run.
    monkeypatch.setattr(merge, "save_figure", lambda *_: None)

    def make(place: str = "outputs", rows: Mapping[str, Any] | None = None, **changes: Any) -> CountsPlan:
        root = tmp_path / place
        own = {"mode": "per_task", "root": root / "merge", "scale": 0.5}
        known = rows or {"ties": plan(space="full", **own), "knots_ties": plan(**own)}
        subsets = {count: draw_subsets(TINY, count, limit=28, seed=0) for count in (2, 3)}
        experiment = Experiment("figure", "A figure", root, {}, **changes)
        return CountsPlan(experiment, known, subsets, 28, 0, None, Published({}))

    return make


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int]]:
    """How often what was evaluated: (kind, number of tasks) -> times."""
    seen: Counter[tuple[str, int]] = Counter()
    evaluate = merge.evaluate

    def counted(model, suite, predictor, **options):
        seen[predictor.kind, len(suite.tasks)] += 1
        return evaluate(model, suite, predictor, **options)

    monkeypatch.setattr(merge, "evaluate", counted)
    return seen


def cells_of(product: Product) -> list[Cell]:
    return [cell for sheet in (*product.sheets, *product.details) for cell in sheet.cells()]


def share(run: Path, task: str) -> float:
    """A task's accuracy, counted from the stored predictions."""
    table = pd.read_parquet(run / "predictions.parquet")
    mine = table[table["task"] == task]
    return sum(int(a) == int(b) for a, b in zip(mine["label"], mine["prediction"], strict=True)) / len(mine)


def test_every_number_is_what_the_stored_predictions_say(counts, tmp_path):
    plan = counts()
    product = run_counts(plan, QUIET)
    (sheet,), (subsets,) = product.sheets, product.details
    assert sheet.columns == ("2 tasks", "3 tasks")
    assert [row.label for row in sheet.rows] == list(subsets.columns) == ["TIES", "KnOTS-TIES"]
    assert [row.label for row in subsets.rows] == [f"{len(names)}: {', '.join(names)}" for names in SUBSETS]
    root = tmp_path / "outputs" / "merge"
    finetuned = next(
        path.parent
        for path in root.glob("*/metrics.json")
        if json.loads(path.read_text())["merge"]["kind"] == "finetuned"
    )
    for column, row in enumerate(sheet.rows):
        values = []
        for names, line in zip(SUBSETS, subsets.rows, strict=True):
            cell = line.cells[column]
            assert cell.run in product.runs
            ratios = [share(root / cell.run, name) / share(finetuned, name) for name in names]
            values.append(100 * sum(ratios) / len(ratios))
            assert cell.ours == pytest.approx(values[-1])
        pairs, whole = row.cells
        assert pairs.ours == pytest.approx(sum(values[:3]) / 3)
        assert pairs.interval == pytest.approx(mean_interval(values[:3], seed=0))
        assert (pairs.note, pairs.run) == ("3 subsets", None)
        assert (whole.ours, whole.interval, whole.note) == (pytest.approx(values[3]), None, "1 subset")
    said = " ".join(sheet.notes)
    assert "descriptive" in said
    assert "those of all 3 tasks, not tuned for any subset" in said
    assert "descriptive" in product.pictures["counts"].caption


def test_a_subset_s_run_is_the_one_of_these_tasks_alone(counts, tmp_path):
    plan = counts()
    runs = set(run_counts(plan, QUIET).runs)
    for row in plan.rows.values():
        for names in SUBSETS:
            alone = run_merge(replace(merge_some(row, names), root=tmp_path / "alone"))
            assert alone.run.run_id in runs
            here = tmp_path / "outputs" / "merge" / alone.run.run_id
            assert json.loads((here / "metrics.json").read_text()) == alone.run.metrics
            pd.testing.assert_frame_equal(
                *(pd.read_parquet(folder / "predictions.parquet") for folder in (here, alone.run.folder))
            )
            assert {path.name for path in here.iterdir()} == {p.name for p in alone.run.folder.iterdir()}


def test_no_baseline_is_evaluated_twice(counts, evaluated):
    run_counts(counts(), QUIET)
    assert evaluated == {("zero_shot", 3): 1, ("finetuned", 3): 1, ("merged", 3): 2, ("merged", 2): 6}
    evaluated.clear()
    run_counts(counts(), QUIET)
    assert not evaluated


def test_a_figure_that_was_stopped_goes_on_to_the_same_numbers(counts, evaluated, monkeypatch):
    counted = merge.evaluate

    def stops(model, suite, predictor, **options):
        if sum(evaluated.values()) == 6:
            raise KeyboardInterrupt
        return counted(model, suite, predictor, **options)

    with monkeypatch.context() as patch:
        patch.setattr(merge, "evaluate", stops)
        with pytest.raises(KeyboardInterrupt):
            run_counts(counts(), QUIET)
    resumed = run_counts(counts(), QUIET)
    assert sum(evaluated.values()) == 10
    undisturbed = run_counts(counts("other"), QUIET)
    assert resumed.sheets == undisturbed.sheets
    assert resumed.details == undisturbed.details
    assert resumed.runs == undisturbed.runs


def test_nothing_is_run_where_only_what_is_there_is_asked_for(counts, evaluated):
    nothing = run_counts(counts(run=False), QUIET)
    assert not evaluated
    assert {row.missing for row in nothing.sheets[0].rows} == {"not run"}
    assert all(cell == Cell() for cell in cells_of(nothing))
    assert not nothing.pictures
    made = run_counts(counts(), QUIET)
    found = run_counts(counts(run=False), QUIET)
    assert (found.sheets, found.details) == (made.sheets, made.details)


def test_options_are_searched_once_and_then_taken_over(counts, plan, tmp_path, evaluated):
    root = tmp_path / "outputs"
    row = plan(space="full", mode="per_task", root=root / "merge", config={"merge": {"source": None}})
    procedure = Procedure("short", "grid", (Axis("scale", (0.2, 0.6)),), "normalized")
    search = SearchPlan(row, procedure, (0,), "test", {"merge": {}})
    product = run_counts(counts(rows={"ties": search}), QUIET)
    records = [json.loads(path.read_text()) for path in (root / "search").glob("*/metrics.json")]
    assert len(records) == 1
    for run in product.runs:
        metrics = json.loads((root / "merge" / run / "metrics.json").read_text())
        if metrics["merge"]["kind"] == "merged":
            assert metrics["merge"]["scale"] == records[0]["chosen"]["scale"]
            assert metrics["merge"]["source"].startswith("search: short")
    assert evaluated["merged", 2] == 3
    assert "searched once, on the test split of all 3 tasks" in " ".join(product.sheets[0].notes)


def test_a_method_that_fails_does_not_keep_the_others_from_it(counts, plan, tmp_path, evaluated):
    own = {"mode": "per_task", "root": tmp_path / "outputs" / "merge"}
    rows = {"task_arithmetic": plan(**own, weights=[1.0, 2.0, 3.0]), "ties": plan(**own, space="full")}
    product = run_counts(counts(rows=rows), QUIET)
    weighted, ties = product.sheets[0].rows
    # One weight a task: all three can be merged, a pair cannot.
    assert [cell.ours is not None for cell in weighted.cells] == [False, True]
    assert all(cell.ours is not None for cell in ties.cells)
    assert list(product.failures) == ["Task Arithmetic on numbers, patterns"]


def test_the_record_has_both_tables_and_the_figure(counts):
    plan = counts()
    run = keep(plan.experiment, run_counts(plan, QUIET))
    assert [sheet["name"] for sheet in run.metrics["sheets"]] == ["figure", "figure_subsets"]
    assert {path.name for path in (run.folder / "tables").glob("*.csv")} == {
        "figure.csv",
        "figure_subsets.csv",
    }
    assert (run.folder / "figures" / "counts.png").is_file()
    assert len(run.metrics["runs"]) == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limit": 0}, r"experiment.limit=0; a whole number of 1 or more"),
        ({"seed": -1}, r"experiment.seed=-1"),
        ({"rows": []}, r"experiment.rows=\[\]"),
        ({"settings": "tuned"}, r"unknown experiment.settings 'tuned'"),
        ({"subsets": 3}, r"unknown key of 'experiment' 'subsets'"),
    ],
)
def test_a_mistake_is_named(changes, message, tmp_path):
    values = {
        "name": "figure",
        "kind": "counts",
        "title": "A figure",
        "paper": None,
        "common": [],
        "rows": ["ties"],
        "settings": "published",
        "search": "reference",
        "limit": 4,
        "seed": 0,
        **changes,
    }
    with pytest.raises(KnotsError, match=message):
        parse_counts(Experiment("figure", "A figure", tmp_path, {}), values, None, Published({}))  # type: ignore[arg-type]
