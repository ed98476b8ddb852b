"""Methods over several sets of adapters: every number is what the stored predictions say."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from knots.errors import KnotsError
from knots.pipelines import MergePlan, merge
from knots.pipelines.model_plan import ModelPlan
from knots.pipelines.reproduce.experiment import Experiment, Runner
from knots.pipelines.reproduce.universes import UniversesPlan, in_universe, run_universes
from knots.pipelines.reproduce.universes.plan import parse_numbers
from tests.miniatures import tiny_adapter, tiny_suite

QUIET = Console(quiet=True)
UNIVERSES = (0, 1, 2)
TASKS = tiny_suite().task_names
METHODS = {"task_arithmetic": {"space": "full", "rule": "sum"}, "ties": {"space": "full"}, "knots_ties": {}}


@pytest.fixture(scope="module")
def several(model: ModelPlan, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model's configuration with three sets of adapters, and three more for other initial factors."""
    folder = tmp_path_factory.mktemp("sets")
    for universe in range(4):
        for place, task in enumerate(TASKS):
            tiny_adapter(folder / str(universe) / task, seed=10 * universe + place)
    values = {
        key: value for key, value in asdict(model).items() if key in ("name", "family", "base", "revision")
    }
    return {
        **values,
        "adapters": f"{folder}/{{universe}}/{{task}}",
        "universes": 3,
        "own_init": {task: [(u + k) % 3 for u in UNIVERSES] for k, task in enumerate(TASKS)},
    }


@pytest.fixture
def universes(
    plan: Callable[..., MergePlan], several: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., UniversesPlan]:
    """Makes experiments over three universes and three methods."""
    monkeypatch.setattr(merge, "save_figure", lambda *_: None)

    def make(run: bool = True, **changes: Any) -> UniversesPlan:
        config = {"merge": {}, "model": several, "adapters": None}
        rows = {}
        for method, options in METHODS.items():
            one = plan(mode="per_task", scale=0.5, config=config, **{"density": 1.0, **options})
            rows[method] = in_universe(one, 0)
        experiment = Experiment("universes", "Universes", tmp_path / "outputs", {}, run)
        known = {"experiment": experiment, "rows": rows, "universes": UNIVERSES, "inits": (True,)}
        return UniversesPlan(**{**known, "similarity": None, **changes})

    return make


def numbers(folder: Path, cell_run: str) -> pd.DataFrame:
    return pd.read_parquet(folder / "merge" / cell_run / "predictions.parquet")


def normalized(plan: UniversesPlan, method: str, universe: int, shared: bool = True) -> np.ndarray:
    """Each task's normalized accuracy, counted from the predictions of the run and its baseline."""
    row = in_universe(plan.rows[method], universe, shared)
    outcome = Runner(replace(plan.experiment, run=False), QUIET).merge(row)
    tables = [outcome.run.predictions(), outcome.baselines["finetuned"].predictions()]
    shares = [
        [(t[t.task == task].label == t[t.task == task].prediction).mean() for task in TASKS] for t in tables
    ]
    return np.array(shares[0]) / np.array(shares[1])


def rows_of(sheet) -> dict:
    return {row.label: row.cells for row in sheet.rows}


def test_means_deviations_pairs_and_ranks_are_what_the_predictions_say(universes):
    plan = universes()
    product = run_universes(plan, QUIET)
    means, differences, ranking = product.sheets
    values = {m: 100 * np.array([normalized(plan, m, u) for u in UNIVERSES]) for m in METHODS}
    assert means.columns == (*TASKS, "average")
    found = rows_of(means)
    for label, method in (
        ("Task Arithmetic", "task_arithmetic"),
        ("TIES", "ties"),
        ("KnOTS-TIES", "knots_ties"),
    ):
        every = np.c_[values[method], values[method].mean(axis=1)]
        assert [cell.ours for cell in found[label]] == pytest.approx(every.mean(axis=0))
        assert [cell.ours for cell in found[f"{label}, deviation"]] == pytest.approx(
            every.std(axis=0, ddof=1)
        )
        for cell in found[label]:
            assert cell.interval[0] <= cell.ours <= cell.interval[1]
    assert means.rows[-1].label == "minimal detectable difference"
    assert all(cell.ours >= 0 for cell in means.rows[-1].cells)
    assert means.rows[-1].cells[-1].ours > 0

    averages = {m: v.mean(axis=1) for m, v in values.items()}
    gap = averages["knots_ties"] - averages["ties"]
    pair = rows_of(differences)["KnOTS-TIES - TIES"]
    assert pair[0].ours == pytest.approx(gap.mean(), abs=1e-9)
    assert 0 <= float(pair[1].text) <= 1
    assert pair[3].text == f"{int((gap > 0).sum())} of 3"

    table = np.array([averages[m] for m in METHODS]).T
    shown = [[cell.ours for cell in row.cells] for row in ranking.rows[:-1]]
    assert np.allclose(shown, table)
    ranks = stats.rankdata(-table, axis=1)
    assert [cell.text for cell in ranking.rows[-1].cells] == [f"{rank:.2f}" for rank in ranks.mean(axis=0)]
    w = stats.friedmanchisquare(*table.T).statistic / (3 * 2)
    assert f"same): {w:.2f} " in ranking.notes[0]
    assert list(product.pictures) == ["universes"]


def test_a_second_call_reads_what_is_there_and_says_the_same(universes, monkeypatch):
    first = run_universes(universes(), QUIET)
    monkeypatch.setattr(merge, "evaluate", None)
    again = run_universes(universes(run=False), QUIET)
    assert again.sheets == first.sheets
    assert again.runs == first.runs


def test_what_was_not_run_is_said(universes):
    product = run_universes(universes(run=False), QUIET)
    (sheet,) = product.sheets
    assert {row.missing for row in sheet.rows} == {"not run"}
    assert not product.pictures


def test_a_method_that_fails_is_left_out_with_the_reason(universes):
    plan = universes()
    broken = replace(plan.rows["ties"], options={**plan.rows["ties"].options, "density": 7.0})
    product = run_universes(replace(plan, rows={**plan.rows, "ties": broken}), QUIET)
    means = rows_of(product.sheets[0])
    assert means["Task Arithmetic"][-1].ours is not None
    (missing,) = (row.missing for row in product.sheets[0].rows if row.label == "TIES")
    assert "density" in missing
    assert set(product.failures) == {f"TIES, universe {u}" for u in UNIVERSES}


def test_sets_without_shared_initial_factors_stand_beside_those_with(universes):
    plan = universes(inits=(True, False))
    product = run_universes(plan, QUIET)
    sheets = {sheet.name: sheet for sheet in product.sheets}
    assert {"universes", "universes_own_init", "universes_inits"} <= set(sheets)
    both = [
        np.array([100 * normalized(plan, "ties", u, shared).mean() for u in UNIVERSES])
        for shared in (True, False)
    ]
    cells = rows_of(sheets["universes_inits"])["TIES"]
    assert [cell.ours for cell in cells] == pytest.approx(
        [both[0].mean(), both[1].mean(), (both[0] - both[1]).mean()]
    )
    low, high = stats.ttest_1samp(both[0] - both[1], 0).confidence_interval()
    assert cells[2].interval == pytest.approx((low, high))
    assert "KnOTS-TIES - TIES" in rows_of(sheets["universes_inits"])


@pytest.mark.parametrize("given", [3, "0", [0], [1, 1], [0, -1], [0, True]])
def test_universes_that_say_nothing_are_refused(given):
    with pytest.raises(KnotsError, match=r"experiment\.universes"):
        parse_numbers(given)


def test_a_universe_that_is_not_there_is_named(universes):
    with pytest.raises(KnotsError, match="universe=3; model 'tiny' has universes 0 to 2"):
        in_universe(universes().rows["ties"], 3)
