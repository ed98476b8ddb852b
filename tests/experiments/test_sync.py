"""`experiments/sync.py` and the real `wandb sync`, against a server of W&B on loopback."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import wandb

from tests.experiments.conftest import Finished
from tests.offline_runs import offline_runs
from tests.wandb_server import WandbServer
from tests.wandb_server import wandb_server as wandb_server

Command = Callable[..., Finished]


def log_offline(output_dir: Path, run_id: str, adapter: bytes | None = None) -> None:
    """One offline run, as the logger makes it."""
    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True)
    with wandb.init(
        project="knots", id=run_id, group="table1", dir=output_dir, mode="offline", settings=settings
    ) as run:
        run.log({"average/accuracy": 71.5})
        if adapter is not None:
            file = output_dir / f"{run_id}.safetensors"
            file.write_bytes(adapter)
            artifact = wandb.Artifact(f"adapter-{run_id}", type="adapter")
            artifact.add_file(str(file), name="adapter_model.safetensors", policy="immutable")
            run.log_artifact(artifact)
    # Which waits for the end of the file.
    assert offline_runs(output_dir)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs"
    folder.mkdir()
    return folder


def test_runs_are_uploaded_once_several_at_a_time_and_one_failure_keeps_no_other(
    command: Command, outputs: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
):
    log_offline(outputs, "first", adapter=b"weights")
    for name in ("second", "third"):
        log_offline(outputs, name)
    arguments = [f"paths.output_dir={outputs}", "workers=2"]
    # A user who logs offline by habit; two runs at a time, or neither is answered.
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb_server.meeting = threading.Barrier(2)
    wandb_server.refused = {"third"}
    done = command("sync", arguments)
    assert done.code == 2
    assert "1 of 3 runs could not be uploaded" in done.err
    assert "third: this run is refused" in done.err
    assert set(wandb_server.runs) == {"first", "second"}
    assert wandb_server.runs["first"]["groupName"] == "table1"
    assert "wandb-summary.json" in wandb_server.files["second"]
    assert wandb_server.artifacts == {"adapter-first": {"adapter_model.safetensors": b"weights"}}
    wandb_server.meeting, wandb_server.refused = None, set()
    wandb_server.runs.clear()
    done = command("sync", arguments)
    assert (done.code, done.err) == (0, "")
    assert "1 of 1: " in done.out
    assert set(wandb_server.runs) == {"third"}
    done = command("sync", arguments)
    assert (done.code, done.err) == (0, "")
    assert "no offline runs to upload" in done.out
    assert "3 uploaded already" in done.out
    assert list(Path.cwd().iterdir()) == []


def test_a_dry_run_lists_and_asks_nobody(command: Command, outputs: Path, monkeypatch: pytest.MonkeyPatch):
    log_offline(outputs, "first")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    done = command("sync", [f"paths.output_dir={outputs}", "dry_run=true"])
    assert (done.code, done.err) == (0, "")
    (folder,) = (outputs / "wandb").glob("offline-run-*")
    assert done.out.splitlines() == ["1 run would be uploaded (0 uploaded already):", str(folder)]


def test_without_a_key_nothing_is_tried(
    command: Command, outputs: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
):
    log_offline(outputs, "first")
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(outputs / "netrc"))
    done = command("sync", [f"paths.output_dir={outputs}"])
    assert done.code == 2
    assert f"no key for W&B ({wandb_server.url}) is configured" in done.err
    assert "wandb login" in done.err


def test_a_server_that_is_not_there_is_named(
    command: Command, outputs: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
):
    log_offline(outputs, "first")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    done = command("sync", [f"paths.output_dir={outputs}"])
    assert done.code == 2
    assert "cannot reach W&B at http://127.0.0.1:9" in done.err


@pytest.mark.parametrize(
    ("override", "words"), [("workers=0", "workers=0"), ("dry_run=maybe", "dry_run='maybe'")]
)
def test_a_mistake_is_one_message(command: Command, outputs: Path, override: str, words: str):
    done = command("sync", [f"paths.output_dir={outputs}", override])
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert words in done.err


def test_a_key_of_either_name_of_the_public_server_means_online(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from experiments._resolvers import WANDB_HOSTS, has_wandb_key, wandb_mode

    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    assert wandb_mode() == "offline"
    for host in WANDB_HOSTS:
        netrc.write_text(f"machine {host}\n  login user\n  password secret\n")
        netrc.chmod(0o600)
        assert wandb_mode() == "online"
        assert not has_wandb_key("https://wandb.example.com")
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.com")
    assert wandb_mode() == "offline"
