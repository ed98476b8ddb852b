"""What rehearsals of both benchmarks do alike: read their runs, stage a fault of the hub, type commands."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import huggingface_hub
import pytest

from experiments._cli import CONF
from tests.experiments.conftest import Finished
from tests.hub import Hub

Command = Callable[..., Finished]


def metrics(tmp_path: Path, method: str) -> dict:
    """What the run of a method measured, and its folder."""
    for path in (tmp_path / "outputs" / "merge").glob("[!.]*/metrics.json"):
        found = json.loads(path.read_text())
        if found["merge"]["method"] == method:
            return {**found, "folder": path.parent}
    raise AssertionError(f"no run of {method}")


def all_metrics(folder: Path) -> dict[str, dict]:
    """Method -> what its run measured."""
    found = (
        json.loads(path.read_text()) for path in (folder / "outputs" / "merge").glob("[!.]*/metrics.json")
    )
    return {run["merge"]["method"]: run for run in found}


def check_fault(
    hub: Hub,
    command: Command,
    arguments: Sequence[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: tuple[str, str, Sequence[str]],
) -> None:
    """A fault of the hub is one message, leaves no run, and costs nothing that was fetched before it.

    `fault`: the repository, what is wrong with it, and words that the message must have.
    """
    repo, kind, words = fault
    hub.faults[repo] = kind
    if kind == "bad_token":
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        hub.token, hub.gated = "hf_right", {repo}
        del hub.faults[repo]
    shown = command("merge", arguments)
    assert shown.code == 2
    assert shown.err.count("error: ") == 1
    assert len([line for line in shown.err.splitlines() if line.startswith("error: ")]) == 1
    assert "Traceback" not in shown.err + shown.out
    for word in words:
        assert word in shown.err, shown.err
    root = tmp_path / "outputs" / "merge"
    assert not root.exists() or list(root.iterdir()) == []
    # When the hub is itself again, only what is missing is fetched.
    hub.faults.clear()
    hub.gated.clear()
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub.token = None
    before = [name for name in hub.downloads if not name.startswith(repo)]
    hub.downloads.clear()
    done = command("merge", arguments)
    assert done.code == 0, done.err
    assert not set(hub.downloads) & set(before)
    assert len(hub.downloads) == len(set(hub.downloads))


def check_partial_copy(hub: Hub, command: Command, arguments: Sequence[str], repo: str) -> None:
    """What lacks a file in the local cache is not taken for the whole without a network."""
    assert command("merge", [*arguments, "merge=finetuned"]).code == 0
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
    (weights,) = (cache / f"models--{repo.replace('/', '--')}").rglob("adapter_model.bin")
    weights.unlink()
    hub.stop()
    done = command("merge", [*arguments, "merge=ties"])
    assert done.code == 2
    assert repo in done.err
    assert "nor is all of it in the local cache" in done.err


def check_trained(place: Path, model: str, amounts: Mapping[str, str]) -> None:
    """Adapters are there with cards that say what they were trained on; no item of a test split was read.

    `amounts`: task -> what its card says of the training split.
    """
    for task, amount in amounts.items():
        folder = place / "outputs" / "finetune" / model / task
        card = (folder / "README.md").read_text()
        assert amount in card
        assert "The test split was not used" in card
        assert str(place) not in card
        assert (folder / "adapter_model.safetensors").is_file()
    cached = [path.name for path in (place / "cache" / "data").iterdir()]
    assert sorted(name.rpartition("-")[0] for name in cached) == sorted(
        f"{task}-{split}" for task in amounts for split in ("train", "validation")
    )


def type_command(place: Path, script: str, arguments: Sequence[str]) -> str:
    """What an entry point prints, run in a process of its own in a folder, without a hub."""
    command = [sys.executable, str(CONF.parent / "experiments" / script), *arguments]
    # One thread: other tests run beside it, and threads that wait for each other make it ten times slower.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    options = {"cwd": place, "env": environment, "capture_output": True, "text": True, "timeout": 1200}
    done = subprocess.run(command, check=False, **options)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr[-3000:]
    return done.stdout
