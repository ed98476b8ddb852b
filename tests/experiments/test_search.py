"""`experiments/search.py`, from the command line to the files."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments._cli import CONF
from tests.experiments.conftest import Finished

Command = Callable[..., Finished]

SCRIPT = CONF.parent / "experiments" / "search.py"
FEW = ["search.values.scale=[0.5,1.0,2.0]", "search.values.density=[0.3,1.0]"]


def record_of(folder: Path) -> dict:
    (path,) = (folder / "outputs" / "search").glob("[!.]*/metrics.json")
    return json.loads(path.read_text())


def test_a_search_shows_what_it_found_and_keeps_it(command: Command, small: list[str], tmp_path: Path):
    done = command("search", [*small, "search=grid", *FEW])
    assert (done.code, done.err) == (0, "")
    record = record_of(tmp_path)
    assert (record["evaluations"], record["method"], record["split"]) == (6, "knots_ties", "validation")
    for shown in ("protocol: grid", "evaluations: 6", "on the edge", "Search folder", "normalized"):
        assert shown in done.out
    assert max(len(line) for line in done.out.splitlines() if "older" not in line) <= 80
    (folder,) = (tmp_path / "outputs" / "search").glob("[!.]*")
    assert {path.name for path in folder.iterdir()} == {
        *("config.yaml", "figures", "log.txt", "metrics.json", "provenance.json", "trials.jsonl")
    }
    assert {path.name for path in (folder / "figures").iterdir()} == {"search.png", "search.pdf"}
    trials = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    assert len({tuple(trial["options"].items()) for trial in trials}) == 6
    again = command("search", [*small, "search=grid", *FEW])
    assert "finished already" in again.out


def test_the_seeds_of_dare_stand_side_by_side(command: Command, small: list[str], tmp_path: Path):
    arguments = ["merge=knots_dare_ties", "search.values.scale=[0.5,1.0]", "search.values.drop=[0.9,0.1]"]
    done = command("search", [*small, *arguments, "search.seeds=[1,2,3]"])
    assert (done.code, done.err) == (0, "")
    test = record_of(tmp_path)["test"]
    assert f"over 3 seeds {test['mean']:.2f} ± {test['deviation']:.2f}" in " ".join(done.out.split())


@pytest.mark.parametrize(("arguments", "message"), [
    (["search=gird"], "unknown search 'gird'; did you mean 'grid'?"),
    (["merge=finetuned"], "merge=finetuned: finetuned merges nothing, so there is nothing to search"),
    (["search.metric=f1"], "unknown key of 'search' 'metric'"),
])  # fmt: skip
def test_a_mistake_is_one_message(command: Command, small: list[str], arguments: list[str], message: str):
    done = command("search", [*small, *arguments])
    assert (done.code, done.err.count("error: ")) == (2, 1)
    assert message in done.err
    assert "Traceback" not in done.err


def test_help_lists_the_searches(command: Command):
    done = command("search", ["--help"])
    assert done.code == 0
    assert "search    reference (default), grid, optuna" in done.out


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_search_that_is_killed_goes_on_to_the_numbers_of_an_undisturbed_one(
    command: Command, small: list[str], tmp_path: Path
):
    """A real process is killed in the middle of its trials; the same command then ends it."""
    arguments = [*small, "search=grid", *FEW, "eval=joint"]
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    trials = tmp_path / "outputs" / "search" / ".trials"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(path.read_text().count("\n") >= 2 for path in trials.glob("*.jsonl")):
            break
        time.sleep(0.005)
    process.kill()
    process.wait()
    before = sum(path.read_text().count("\n") for path in trials.glob("*.jsonl"))
    assert before >= 2
    done = command("search", arguments)
    assert (done.code, done.err) == (0, "")
    (provenance,) = (tmp_path / "outputs" / "search").glob("[!.]*/provenance.json")
    if before < 6:  # it was fast enough to be killed in the middle
        assert json.loads(provenance.read_text())["scored"] == 6 - before
    resumed = record_of(tmp_path)
    undisturbed = tmp_path / "undisturbed"
    other = [a.replace(f"{tmp_path}/outputs", f"{undisturbed}/outputs") for a in arguments]
    assert command("search", other).code == 0
    assert record_of(undisturbed) == resumed
