"""Sweeps without a cluster: what is asked for, recorded and shown. `tests/slurm` has the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from experiments._jobs import Job
from experiments._launcher import model_of, resources
from experiments._sweep_view import summary, tail
from experiments._sweeps import Progress, Sweep, find_sweep
from knots import interruption
from knots.errors import KnotsError
from tests.experiments.conftest import Finished

Command = Callable[..., Finished]

GIVEN: dict[str, Any] = {
    "partition": "gpu",
    "account": None,
    "gpus_per_node": None,
    "mem_gb": None,
    "timeout_min": None,
    "tasks_per_node": None,
    "needs": {
        "large": {"gpus_per_node": 4, "mem_gb": 96, "timeout_min": 700},
        "other": {"gpus_per_node": 0, "mem_gb": 8, "timeout_min": 60},
    },
}


def test_a_job_asks_for_what_was_given_else_for_what_its_model_needs():
    large = {"partition": "gpu", "gpus_per_node": 4, "mem_gb": 96, "timeout_min": 700}
    assert resources(GIVEN, "large", one_process_a_gpu=False) == {**large, "tasks_per_node": 1}
    assert resources(GIVEN, "large", one_process_a_gpu=True) == {**large, "tasks_per_node": 4}
    less = {**GIVEN, "mem_gb": 32, "gpus_per_node": 0, "tasks_per_node": 2}
    assert resources(less, "large", one_process_a_gpu=True) == {
        "partition": "gpu",
        "mem_gb": 32,
        "timeout_min": 700,
        "tasks_per_node": 2,
    }
    small = {"partition": "gpu", "mem_gb": 8, "timeout_min": 60, "tasks_per_node": 1}
    assert resources(GIVEN, "unheard of", one_process_a_gpu=False) == small


def test_needs_that_cannot_be_are_named():
    wrong = {**GIVEN, "needs": {"other": {"memory": 3}}}
    with pytest.raises(KnotsError, match=r"unknown key of hydra\.launcher\.needs\.small: 'memory'"):
        resources(wrong, "small", one_process_a_gpu=False)
    with pytest.raises(KnotsError, match=r"hydra\.launcher\.timeout_min is needed"):
        resources({**GIVEN, "needs": {}}, "small", one_process_a_gpu=False)


def test_the_model_of_an_experiment_is_that_of_its_runs():
    assert model_of(OmegaConf.create({"model": {"name": "vit_b_32"}})) == "vit_b_32"
    common = ["model=mini_clip", "eval=all", "model=vit_l_14"]
    assert model_of(OmegaConf.create({"experiment": {"common": common}})) == "vit_l_14"
    assert model_of(OmegaConf.create({"paths": {}})) == "other"


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Put commands of a cluster that is not there on the path, and nothing else of one."""
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Five jobs: done, failed, running, pending and gone; Slurm knows the last three."""
    made = Sweep.open_or_make(tmp_path / "here" / "outputs" / ".sweeps" / "monday", "merge")
    logs = made.folder / "logs"
    asked = {"submitit_folder": str(logs), "timeout_min": 5}
    made.add([([f"merge.scale={number}"], dict(asked)) for number in range(5)])
    logs.mkdir()
    for number, entry in enumerate(made.jobs):
        entry.ids.append(f"7_{number}")
        (logs / f"7_{number}_0_log.out").write_text("first\n\nslurmstepd: error: *** CANCELLED ***\n")
        made.place(number).mkdir(parents=True)
    (made.place(0) / "done.json").write_text(json.dumps({"job": "7_0", "runs": ["merge/abc"]}))
    (made.place(1) / "failed.json").write_text(json.dumps({"job": "7_1", "message": "the disk is full"}))
    made.save()
    return made


QUEUE = 'echo "7_2|RUNNING"; echo "7_3|PENDING"; echo "8_9|RUNNING"'


def test_the_status_shows_every_job_and_why_one_did_not_end_well(
    command: Command, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    programs(tmp_path / "bin", monkeypatch, squeue=QUEUE)
    shown = command("sweep", ["status", "lines=1"])
    assert shown.code == 2
    assert "5 jobs: 1 done, 1 failed, 1 missing, 1 running, 1 pending" in shown.err
    for words in ("merge/abc", "job 1 failed: the disk is full", "job 4 missing", "*** CANCELLED ***"):
        assert words in shown.out
    assert "first" not in shown.out


def test_what_an_earlier_attempt_left_says_nothing_of_this_one(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    programs(tmp_path / "bin", monkeypatch, squeue='echo "9_0|PENDING"')
    for number in (0, 1):
        sweep.jobs[number].ids.append(f"9_{number}")
    assert [one.state for one in sweep.progress()][:2] == ["pending", "missing"]


def test_what_has_not_ended_is_cancelled(
    command: Command, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    said = tmp_path / "said"
    programs(tmp_path / "bin", monkeypatch, squeue=QUEUE, scancel=f'echo "$*" > {said}')
    shown = command("sweep", ["cancel", f"sweep={sweep.folder.name}"])
    assert (shown.code, shown.err) == (0, "")
    assert "cancelled: jobs 2, 3" in shown.out
    assert said.read_text() == "7_2 7_3\n"


def test_an_answer_that_slurm_does_not_give_is_one_message(
    command: Command, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    programs(tmp_path / "bin", monkeypatch, squeue="echo 'no controller' >&2; exit 1")
    shown = command("sweep", ["status"])
    assert (shown.code, shown.err) == (2, "error: cannot ask Slurm how far the jobs are: no controller\n")
    # Of jobs that are gone for long, Slurm says that they never were.
    programs(tmp_path / "other", monkeypatch, squeue="echo 'Invalid job id specified' >&2; exit 1")
    assert [one.state for one in sweep.progress()] == ["done", "failed", "missing", "missing", "missing"]


def test_mistakes_are_named(command: Command, tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch):
    assert "unknown action 'stauts'; did you mean 'status'?" in command("sweep", ["stauts"]).err
    assert "known: monday" in command("sweep", ["status", "sweep=tuesday"]).err
    (sweep.folder / "sweep.json").write_text("{")
    assert "is no manifest of a sweep" in command("sweep", ["status"]).err
    with pytest.raises(KnotsError, match=r"no sweep below .*submit one with -m hydra/launcher=slurm"):
        find_sweep(tmp_path / "nowhere", None)
    programs(tmp_path / "bin", monkeypatch, srun="true", sbatch="echo 'invalid account' >&2; exit 1")
    shown = command("merge", ["hydra/launcher=slurm", "merge=ties,knots_ties"])
    assert shown.code == 2
    assert "Slurm did not take the jobs" in shown.err
    assert "invalid account" in shown.err


def job(tmp_path: Path, *overrides: str) -> Job:
    return Job("merge", overrides, str(tmp_path / "job"))


def record(tmp_path: Path, name: str) -> dict[str, Any]:
    return json.loads((tmp_path / "job" / f"{name}.json").read_text())


@pytest.fixture
def as_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The surroundings of a job, put back afterwards."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setattr("sys.argv", ["submitit"])
    monkeypatch.chdir(tmp_path)


def test_a_job_records_its_runs(as_job: None, small: list[str], tmp_path: Path):
    few = [*small, "merge=zero_shot", "tasks=[digits]", "eval=per_task"]
    assert job(tmp_path, *few)() == "done"
    found = record(tmp_path, "done")
    (run,) = found["runs"]
    assert (tmp_path / "outputs" / run / "metrics.json").is_file()
    assert found["job"] == record(tmp_path, "started")["job"] == "12"
    assert not interruption.asked()


def test_a_job_that_fails_records_why_and_raises_nothing(
    as_job: None, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert job(tmp_path, *small, "adapters=/nowhere/{task}")() == "failed"
    assert "/nowhere/digits" in record(tmp_path, "failed")["message"]
    assert "traceback" not in record(tmp_path, "failed")
    assert job(tmp_path, "merge=tise")() == "failed"
    assert "did you mean 'ties'" in record(tmp_path, "failed")["message"]
    # Another attempt takes the place of what the last one left.
    assert job(tmp_path, *small, "merge=zero_shot", "tasks=[digits]", "eval=per_task")() == "done"
    assert sorted(path.name for path in (tmp_path / "job").iterdir()) == ["done.json", "started.json"]
    assert "error: " in capsys.readouterr().err


def test_a_job_of_two_attempts_is_queued_again_as_it_is(tmp_path: Path):
    first = job(tmp_path, "merge=ties")
    again = first.checkpoint()
    assert again.function == first
    assert not os.path.exists(first.folder)  # noqa: PTH110


def test_summaries_and_ends_of_logs(tmp_path: Path):
    assert summary([Progress("done", {}, None)]) == "1 job: 1 done"
    assert summary([]) == "0 jobs: none"
    log = tmp_path / "log"
    log.write_text("one\n\ntwo\nthree\n")
    assert tail(log, 2) == ["two", "three"]
    assert tail(log, 0) == tail(tmp_path / "absent", 3) == []
