"""What `benchmarks/table1.py` counts, adds up and writes; how long anything takes is its own to tell."""

import json
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from benchmarks import _projection, _stages, table1
from benchmarks._adapters import SHAPES
from benchmarks._projection import projected
from benchmarks._stages import FORWARD, MERGING, OTHER, STAGES, WAITING, Stages
from benchmarks._work import work_of
from knots.pipelines import bench
from knots.pipelines.reproduce.table_plan import TablePlan
from tests.benchmarks.conftest import Refused

FAST = (
    "tasks=[digits,letters,signs] search.values.scale=[0.5,1.0] search.values.drop=[0.5] search.seeds=[1,2]"
)
TASKS = 3
TEST = {"vision8": 72_123, "nli6": 29_216}
VALIDATION = {"vision8": 19_736, "nli6": 14_836}
"""Items of the real suites, all tasks together (conf/task)."""


@pytest.fixture
def words(small: list[str], tiny: Path, tmp_path: Path) -> list[str]:
    """Options that keep the benchmark tiny."""
    runs = " ".join(word for word in small if not word.startswith(("paths.", "logger=", "trainer=")))
    places = [f"cache_dir={tiny}/cache", f"out={tmp_path}/table1.json", "threads=1", "tables=[]"]
    return [*places, f"overrides={runs} {FAST} batch_size=10"]


@cache
def paper(name: str) -> TablePlan:
    """The plan of one of the paper's tables."""
    cfg: Any = OmegaConf.create(table1.DEFAULTS)
    return table1.planned(cfg, name, Path("nowhere")).plan


def written(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "table1.json").read_text())


@pytest.mark.parametrize(("table", "rows", "in_batches"), [
    ("mini_table1", ["single", "regmean", "knots_dare_ties"], True),
    # Batches of a router depend on its routes.
    pytest.param("mini_table4", ["ensemble", "router"], False, marks=pytest.mark.slow),
])  # fmt: skip
def test_what_went_through_the_model_is_what_the_plan_says(
    words: list[str], tmp_path: Path, table: str, rows: list[str], in_batches: bool
):
    table1.main([*words, f"experiment={table}", f"rows=[{','.join(rows)}]"])
    whole = written(tmp_path)["measured"]["whole"]
    planned, shown = whole["planned"], whole["planned_for_rules"]
    assert whole["items"]["evaluation"] == sum(planned["items"].values())
    assert whole["items"].get("calibration", 0) == shown["items"]
    assert whole["merges"] == planned["merges"]
    assert planned["passes"] == (whole["passes"]["evaluation"] if in_batches else None)
    assert shown["passes"] == whole["passes"].get("calibration", 0) or not in_batches
    stages = whole["stages"]
    assert list(stages) == list(STAGES)
    assert sum(stage["seconds"] for stage in stages.values()) == pytest.approx(whole["seconds"])
    assert sum(stage["share"] for stage in stages.values()) == pytest.approx(1)
    assert stages[FORWARD]["seconds"] > 0
    assert (stages[MERGING]["seconds"] > 0) == (table == "mini_table1")


@pytest.mark.slow
def test_fewer_items_are_asked_of_every_split(words: list[str], tmp_path: Path, capsys: Any):
    table1.main([*words, "rows=[zero_shot,task_arithmetic]", "items=16"])
    whole = written(tmp_path)["measured"]["whole"]
    # Zero-shot, fine-tuned and the merge on the test split, that shortened to two ranks; fine-tuned and two
    # candidates on the other.
    assert whole["candidates"] == 2
    assert whole["planned"]["items"] == {
        "bounds and baselines": 3 * 16 * TASKS,
        "methods": 16 * TASKS,
        "searched candidates": 2 * 16 * TASKS,
        "shortened merges": 2 * 16 * TASKS,
    }
    assert "merging: " in capsys.readouterr().out


@pytest.mark.slow
def test_sentences_are_counted_in_pairs(tmp_path: Path):
    search = "tasks=[counts,facts] search.values.scale=[0.5,1] search.values.density=[0.3]"
    places = [f"cache_dir={tmp_path}/cache", f"out={tmp_path}/table1.json", "threads=1", "tables=[]"]
    table1.main([*places, "experiment=mini_table3", "rows=[ties]", "items=16", f"overrides={search}"])
    whole = written(tmp_path)["measured"]["whole"]
    assert whole["items"] == {"evaluation": sum(whole["planned"]["items"].values())}
    # Both baselines and the merge in full and at two ranks; on the other split one baseline and candidates.
    assert whole["items"]["evaluation"] == 16 * 2 * (2 + 3 + 1 + whole["candidates"])
    assert whole["planned"]["passes"] is None  # they go by the lengths of the sentences


@pytest.mark.parametrize(("table", "suite", "tasks", "merges", "shown"), [
    ("table1", "vision8", 8, 6, 8 * 256 + 1),
    ("table3", "nli6", 6, 8, 6 * 256 + 1),
])  # fmt: skip
def test_the_paper_s_tables_are_counted_from_their_plans(
    table: str, suite: str, tasks: int, merges: int, shown: int
):
    work = work_of(paper(table))
    # The best single adapter is chosen on the validation split: each alone, and both baselines.
    assert work.items == {
        "bounds and baselines": 3 * TEST[suite] + (tasks + 2) * VALIDATION[suite],
        "methods": merges * TEST[suite],
        "shortened merges": 2 * merges * TEST[suite],
    }
    assert work.shown == shown
    assert work.merges.total() == 3 * merges
    assert work.measured.total() == merges


@pytest.mark.slow
def test_a_table_that_searches_is_counted_with_every_line_to_its_end():
    work = work_of(paper("rows_vs_columns"))
    # Ten scales, then ten densities, of which one is the first axis' own; for three methods.
    assert work.items["searched candidates"] == 3 * 19 * VALIDATION["vision8"]
    known = work_of(paper("rows_vs_columns"), candidates=5)
    assert known.items["searched candidates"] == 5 * VALIDATION["vision8"]
    assert work.total - known.total == (3 * 19 - 5) * VALIDATION["vision8"]


def test_the_projection_is_items_over_rate_and_merges_times_seconds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_projection, "NUMBERS", 1)
    monkeypatch.setitem(SHAPES, "vit_b_32", replace(SHAPES["vit_b_32"], width=32))
    plan = paper("table1")
    work = work_of(plan)
    found = projected(plan, work, 2000.0, "cpu")
    through = work.total + work.shown
    assert found["minutes_at_rate"] == {"rate": 2000.0, "minutes": pytest.approx(through / 2000 / 60)}
    assert found["minutes_at_example_rates"]["1000"] == pytest.approx(through / 1000 / 60)
    seconds = found["merge_seconds"]
    assert {(one["timed_layers"], one["layers"]) for one in seconds.values()} == {(1, 12)}
    assert set(seconds) == set(found["merges"]) == set(work.merges)
    # Three that are scored; of the sheet of costs nine where one is short, else five.
    assert set(found["merges"].values()) <= {3 + 9, 3 + 5}
    expected = sum(n * seconds[method]["seconds"] for method, n in found["merges"].items()) / 60
    assert found["merge_minutes"] == pytest.approx(expected)
    assert projected(plan, work, None, "cpu")["minutes_at_rate"] is None


def test_a_moment_counts_for_the_innermost_stage(monkeypatch: pytest.MonkeyPatch):
    moments = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0])
    monkeypatch.setattr(_stages, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
    stages = Stages()
    with stages.within(OTHER), stages.within(MERGING), stages.within(WAITING):
        pass
    assert (stages.seconds[OTHER], stages.seconds[MERGING], stages.seconds[WAITING]) == (17.0, 10.0, 4.0)
    assert stages.total == 31.0


def test_the_library_is_itself_again_afterwards():
    before = bench.merge
    with suppress(ZeroDivisionError), Stages().watching() as stages:
        assert bench.merge is not before
        assert stages.now == OTHER
        raise ZeroDivisionError
    assert bench.merge is before


@pytest.mark.parametrize(("word", "message"), [
    ("itmes=3", "'itmes=3' is no option; allowed: experiment="),
    ("items=0", "items=0; a whole number above 0"),
    ("device=tpu", "device=tpu; allowed: cpu, cuda"),
    ("experiment=figure2", "experiment=figure2 is no table"),
    ("experiment=tabel1", "unknown experiment 'tabel1'"),
    ("images_per_second.vit_b=3", "images_per_second=vit_b; allowed: llama3_2_1b, llama3_8b,"),
    ("images_per_second.vit_b_32=fast", "images_per_second.vit_b_32=fast; a number above 0"),
])  # fmt: skip
def test_a_mistake_is_one_line(word: str, message: str, refused: Refused):
    assert message in refused(table1.main, word)
