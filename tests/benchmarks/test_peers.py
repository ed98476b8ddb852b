"""The comparison with other packages, without installing any: what it writes, measures and records."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionModel

import knots
from benchmarks.peers import run
from benchmarks.peers._inputs import PROJECTIONS, write_inputs
from tests.benchmarks.conftest import Refused

SCRIPTS = Path(run.__file__).parent
SHAPE = {"tasks": 3, "rank": 2, "modules": 8, "width": 16}
SMALL = [f"{key}={value}" for key, value in SHAPE.items()] + ["repeats=1", "threads=1"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, **SHAPE)
    return folder


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports one of the scripts, which find each other in their own folder."""
    monkeypatch.syspath_prepend(SCRIPTS)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def work_for(script: Any, inputs: Path, scratch: Path) -> Any:
    return script("_peer").Work(
        base=str(inputs / "base"),
        adapters=tuple(str(inputs / "adapters" / f"task_{task}") for task in range(SHAPE["tasks"])),
        scratch=str(scratch),
        result=str(scratch / "result.safetensors"),
        rank=SHAPE["rank"],
        density=0.2,
        drop=0.8,
        seed=420,
        threads=1,
        repeats=2,
        enough=60.0,
    )


def loaded(inputs: Path) -> list[knots.Adapter]:
    return [knots.load_adapter(folder) for folder in sorted((inputs / "adapters").iterdir())]


def test_adapters_are_those_of_the_base(inputs: Path):
    linear = dict(CLIPVisionModel.from_pretrained(inputs / "base").named_modules())
    adapters = loaded(inputs)
    assert len(adapters) == SHAPE["tasks"]
    for adapter in adapters:
        assert len(adapter.updates) == SHAPE["modules"]
        for module, update in adapter.updates.items():
            assert update.shape == tuple(linear[adapter.prefix + module].weight.shape) == (16, 16)
            assert update.rank == SHAPE["rank"]
            assert module.rpartition(".")[2] in PROJECTIONS


def test_inputs_are_the_same_each_time(inputs: Path, tmp_path: Path):
    write_inputs(tmp_path, **SHAPE)
    for file in inputs.rglob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / file.relative_to(inputs)).read_bytes()


@pytest.mark.parametrize(
    ("case", "gives", "places"),
    [
        ("knots_ties", "adapter of rank 6", ("memory", "memory")),
        ("ties", "full weights", ("memory", "memory")),
        ("ties_module, shortened", "adapter of rank 2", ("memory", "memory")),
        ("dare_ties, folders", "adapter of rank 16", ("disk", "disk")),
    ],
)
def test_cases_of_ours(
    script: Any, inputs: Path, tmp_path: Path, case: str, gives: str, places: tuple[str, str]
):
    work = work_for(script, inputs, tmp_path)
    found = script("_peer").measure(script("with_knots").CASES[case], work)
    assert found["gives"] == gives
    assert (found["start"], found["end"]) == places
    assert found["repeats"] == 2
    assert run.distance(Path(work.result), Path(work.result)) == 0


def test_a_long_merge_is_not_repeated(script: Any, inputs: Path, tmp_path: Path):
    work = replace(work_for(script, inputs, tmp_path), enough=0.0)
    found = script("_peer").measure(script("with_knots").CASES["ties"], work)
    assert found["repeats"] == 0
    assert found["seconds"] == found["first_seconds"]
    assert min(found["seconds"].values()) > 0


def test_concatenation_by_peft_is_our_task_arithmetic(script: Any, inputs: Path, tmp_path: Path):
    work = work_for(script, inputs, tmp_path)
    theirs, ours = (
        replace(work, result=str(tmp_path / "theirs")),
        replace(work, result=str(tmp_path / "ours")),
    )
    found = script("_peer").measure(script("with_peft").CASES["cat"], theirs)
    script("_peer").measure(script("with_knots").CASES["task_arithmetic"], ours)
    assert found["gives"] == "adapter of rank 6"
    assert run.distance(tmp_path / "theirs", tmp_path / "ours") < 1e-6


def test_distance_is_over_the_whole_model(tmp_path: Path):
    b, a = torch.randn(4, 2), torch.randn(2, 3)
    save_file({"x.b": b, "x.a": a, "y": torch.ones(2, 2)}, tmp_path / "one")
    save_file({"x": b @ a, "y": torch.zeros(2, 2)}, tmp_path / "other")
    expected = 2 / float((b @ a).norm())
    assert run.distance(tmp_path / "one", tmp_path / "other") == pytest.approx(expected, rel=1e-5)


def made_up(_python: Path, script: str, case: str, folder: Path, _cfg: Any) -> dict[str, Any]:
    """A measurement that took 2 s, of ours 1 s; one of mergekit's cases fails."""
    if case == "ties of base+adapter":
        raise run.PeerError("AssertionError: no such road")
    save_file({"x": torch.ones(2, 2)}, folder / "result.safetensors")
    seconds = dict.fromkeys(("wall", "cpu"), 1.0 if script == "with_knots.py" else 2.0)
    memory = {"imported": 10**9, "peak": 3 * 10**9}
    return {"start": "disk", "end": "disk", "gives": "full weights", "seconds": seconds, "bytes": memory}


def test_what_fails_is_recorded_beside_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def install(requirement: str, folder: Path, _timeout: float) -> Path:
        if requirement.startswith("fusion-bench"):
            raise run.PeerError("no matching distribution")
        return folder

    monkeypatch.setattr(run, "run_case", made_up)
    monkeypatch.setattr(run, "install", install)
    run.main([*SMALL, f"out={tmp_path / 'peers.json'}"])
    content = json.loads((tmp_path / "peers.json").read_text())
    measured = content["measured"]
    assert [(one["peer"], one["case"]) for one in measured["peers"]] == [(p.peer, p.case) for p in run.PAIRS]
    failed = {(one["peer"], one["case"]): one["failed"] for one in measured["peers"] if "failed" in one}
    assert failed.pop(("mergekit", "ties of base+adapter")) == "AssertionError: no such road"
    assert {peer for peer, _ in failed} == {"fusion_bench"}
    assert set(failed.values()) == {"not installed: no matching distribution"}
    whole = [one for one in measured["peers"] if one["peer"] == "peft"]
    assert {(one["ratio"]["wall"], one["ratio"]["cpu"], one["distance"]) for one in whole} == {
        (2.0, 2.0, 0.0)
    }
    assert set(measured["ours"]) == {pair.ours for pair in run.PAIRS}
    assert content["options"]["tasks"] == 3
    assert "under" not in content["options"]
    printed = capsys.readouterr().out
    assert "failed: AssertionError: no such road" in printed
    assert "3.00 (+2.00)" in printed


def test_one_merge_in_a_process_of_its_own(tmp_path: Path, inputs: Path):
    cfg = run.chosen(run.DEFAULTS, SMALL)
    for part in ("base", "adapters"):
        (tmp_path / part).symlink_to(inputs / part)
    found = run.run_case(Path(sys.executable), "with_knots.py", "task_arithmetic", tmp_path, cfg)
    assert found["gives"] == "adapter of rank 6"
    assert found["versions"]["torch"] == torch.__version__
    assert found["bytes"]["peak"] >= found["bytes"]["imported"] > 0
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([sys.executable, "-c", "raise ValueError('no such thing')"], "ValueError: no such thing"),
        ([sys.executable, "-c", "raise SystemExit(3)"], "exit status 3"),
        (["no-such-command"], "no command 'no-such-command'"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], "took longer than 1 s"),
    ],
)
def test_reasons_of_failures(tmp_path: Path, words: list[str], reason: str):
    with pytest.raises(run.PeerError, match=f"^{reason}$"):
        run.run_command(words, tmp_path, 1.0 if "sleep" in words[-1] else 60.0)


@pytest.mark.parametrize("word", ["no_such=1", "only=peft,nobody", "modules=6", "width=0", "drop=1", "tasks"])
def test_a_wrong_option_is_one_line(word: str, refused: Refused):
    assert refused(run.main, word).startswith("error: ")
