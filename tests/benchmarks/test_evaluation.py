"""The benchmark of the evaluation: what it counts and writes, never how fast anything is."""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from knots.pipelines.bench import workshop_for

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = ("items=6", "batch_size=4", "batch_tokens=40", "repeats=1", "threads=1")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and heads that the tests share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, cache: Path) -> ModuleType:
    """The script, as a shell would find it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("KNOTS_CACHE", str(cache))
    return importlib.import_module("evaluation")


def measured(script: ModuleType, folder: Path, words: Sequence[str]) -> dict[str, Any]:
    """What the script writes."""
    script.main([*SMALL, *words, f"out={folder}/found/evaluation.json"])
    found: dict[str, Any] = json.loads((folder / "found" / "evaluation.json").read_text())
    return found


def check_spread(spread: dict[str, float]) -> None:
    assert 0 < spread["least"] <= spread["median"] <= spread["most"]


def test_images_in_both_modes_and_both_ways_of_applying(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["model=mini_clip", "tasks=[digits,signs,textures]", "ensemble=[1,8]"]
    found = measured(script, tmp_path, words)
    assert found["machine"]["threads"] == 1
    assert found["options"]["items"] == 6
    assert "out" not in found["options"]
    loops, ensembles = found["measured"]["loops"], found["measured"]["ensembles"]
    assert [loop["precision"] for loop in loops] == ["32", "bf16"]
    for loop in loops:
        # Three tasks of six pictures, in batches of four and two.
        assert (loop["items"], loop["batches"], loop["tokens"]) == (18, 6, None)
        assert list(loop["modes"]) == ["per_task", "all"]
        assert loop["data_seconds"] > 0
        assert loop["base_seconds"] > 0
        for mode in loop["modes"].values():
            assert mode["other_predictions"] == 0
            check_spread(mode["kept"])
            check_spread(mode["call"])
            check_spread(mode["call_cpu"])
            assert mode["call"]["median"] < mode["kept"]["median"]
            assert 0 <= mode["waiting_share"] <= 1
    # The first two tasks; no more adapters than tasks.
    assert [(one["adapters"], one["items"]) for one in ensembles] == [(1, 12), (3, 12)] * 2
    for one in ensembles:
        for size in ("same tower", "same pictures"):
            check_spread(one[size]["ratio"])
            check_spread(one[size]["cpu_ratio"])
    lines = capsys.readouterr().out.splitlines()
    assert sum("kept" in line and "0 other predictions" in line for line in lines) == 4
    assert sum("ensemble of 3, same pictures" in line for line in lines) == 2


def test_sentences_count_their_tokens(script: ModuleType, tmp_path: Path):
    found = measured(script, tmp_path, ["model=mini_llama", "tasks=[counts,facts]", "precision=32"])
    (loop,) = found["measured"]["loops"]
    assert loop["items"] == 12
    assert list(loop["modes"]) == ["per_task"]
    assert loop["modes"]["per_task"]["other_predictions"] == 0
    plan = script.planned(SimpleNamespace(**found["options"]), "mini_llama", "32", 40)
    stage = script.on_stage(plan, workshop_for(plan), torch.device("cpu"))
    assert loop["batches"] == len(stage.batches)
    assert loop["tokens"] == sum(int(batch.lengths.sum()) for batch in stage.batches)
    assert max(batch.tokens.numel() for batch in stage.batches) <= 40
    assert found["measured"]["ensembles"] == []


def test_other_predictions_are_counted(script: ModuleType):
    cfg = SimpleNamespace(
        **{**script.DEFAULTS, "items": 6, "batch_size": 4, "tasks": ["digits", "signs"], "repeats": 1}
    )
    plan = script.planned(cfg, "mini_clip", "32")
    stage = script.on_stage(plan, workshop_for(plan), torch.device("cpu"))
    bench = script.Bench(cfg, stage, script.Console(quiet=True))
    with script.session():
        result, _ = bench.evaluation(script.Merged(stage.adapter))
    found, _ = bench.bare(stage.adapter)
    assert script.other_predictions(stage, found, result) == 0
    # The class that is farthest is never the nearest.
    assert script.other_predictions(stage, [-features for features in found], result) == 12


def test_sides_take_turns_after_a_round_that_warms_up(script: ModuleType):
    order: list[str] = []

    def side(name: str) -> dict[str, float]:
        order.append(name)
        return {"seconds": float(len(order))}

    runs = script.taking_turns({name: lambda name=name: side(name) for name in "abc"}, 2)
    assert "".join(order) in ("cba" + "abc" + "cba", "abc" + "cba" + "abc")
    assert [len(some) for some in runs.values()] == [2, 2, 2]
    assert all(run["seconds"] > 3 for some in runs.values() for run in some)
    slower = [{"seconds": 2 * run["seconds"], "call": 4 * run["seconds"]} for run in runs["b"]]
    assert script.ratios(runs["b"], slower, "seconds/call") == [0.25, 0.25]
    assert script.ratios(runs["b"], runs["b"], "seconds") == [1.0, 1.0]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("itms=3", "'itms=3' is no option; allowed: model="),
        ("items=0", "items=0; a whole number of 1 or more is needed"),
        ("repeats=0", "repeats=0; a whole number of 1 or more is needed"),
        ("mode=joint", "mode=joint; allowed: per_task, all"),
        ("tasks=[digits,mnist]", "task of suite 'mini_vision8'"),
        ("model=mini_clop", "mini_clop"),
    ],
)
def test_a_mistake_gets_one_line_and_writes_nothing(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str, said: str
):
    out = tmp_path / "evaluation.json"
    with pytest.raises(SystemExit) as stop:
        script.main([*SMALL, "model=mini_clip", f"out={out}", word])
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert len(shown.err.splitlines()) == 1
    assert not out.exists()
