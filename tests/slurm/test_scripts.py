"""The batch scripts, run by a real cluster: slurm/array.sbatch and slurm/wandb_agent.sbatch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.conftest import REPOSITORY, Cluster

SYSTEM = "/usr/bin:/bin:/usr/sbin:/sbin"
LINES = (
    "merge=ties merge.scale=0.3",
    "'name=two words' \"quoted=it's\"",
    "list=[1,2] {a:1}",
    "escaped=a\\ b plain=c#d empty=''",
)
JOBS = f"# the sweep\n{LINES[0]}\n\n   \n  {LINES[1]}  \n  # the others\n{LINES[2]}\n{LINES[3]}"
RECORDS = """
import json, os, sys
from pathlib import Path
Path(f"record-{os.environ['SLURM_ARRAY_TASK_ID']}.json").write_text(json.dumps(sys.argv))
"""
FINDS = """
import sys
from importlib.util import find_spec
print(find_spec("knots").origin, sys.argv[1:])
"""
# Saves that it was here when it is told to stop, and comes to its end the next time.
GOES_ON = """
import signal, sys, time
from pathlib import Path
saved = Path(sys.argv[1])
if saved.exists():
    print("goes on", flush=True)
    sys.exit(0)
def stop(number, frame):
    saved.touch()
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
Path(sys.argv[1] + ".ready").touch()
time.sleep(300)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the scripts, two entry points, and an environment with a `python` and a `wandb`."""
    folder = tmp_path / "repository"
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    shutil.copytree(REPOSITORY / "slurm", folder / "slurm")
    (folder / "experiments").mkdir()
    (folder / "experiments" / "records.py").write_text(RECORDS)
    (folder / "experiments" / "goes_on.py").write_text(GOES_ON)
    (folder / "jobs.txt").write_text(JOBS)
    program(programs / "python", f'exec {sys.executable} "$@"')
    program(programs / "wandb", 'echo "wandb $* in $PWD"')
    return folder


def program(file: Path, text: str) -> None:
    file.write_text(f"#!/bin/bash\n{text}\n")
    file.chmod(0o755)


def stub_uv(repository: Path) -> str:
    """A path with a `uv` of which only `uv run --no-sync --project REPOSITORY` is known."""
    folder = repository.parent / "uv"
    folder.mkdir()
    asked = f'[[ "$1 $2 $3 $4" == "run --no-sync --project {repository}" ]] || exit 9'
    program(folder / "uv", f'{asked}\nshift 4\nPATH={repository}/.venv/bin:$PATH\nexec "$@"')
    return f"{folder}:{SYSTEM}"


def submit(cluster: Cluster, folder: Path, words: str, **environment: str) -> str:
    return cluster.submit(*words.split(), cwd=folder, environment={"PATH": SYSTEM, **environment})


def run(cluster: Cluster, folder: Path, words: str, **environment: str) -> str:
    """Submit a script and wait for its end; the job's number."""
    job = submit(cluster, folder, words, **environment)
    cluster.wait_for(lambda: cluster.ended(job))
    return job


def log(repository: Path, job: str, name: str = "knots") -> str:
    return (repository / "outputs" / ".slurm" / f"{name}-{job}.log").read_text()


def as_a_shell_reads(line: str) -> list[str]:
    printed = subprocess.check_output(["bash", "-c", f"printf '%s\\0' {line}"], text=True)
    return printed.split("\0")[:-1]


@pytest.mark.parametrize("by", ["uv", "venv"])
def test_each_job_gets_the_words_of_its_line(cluster: Cluster, repository: Path, by: str):
    path = stub_uv(repository) if by == "uv" else SYSTEM
    words = "--array=0-4%2 slurm/array.sbatch experiments/records.py jobs.txt logger=none"
    job = run(cluster, repository, words, PATH=path)
    assert sorted(cluster.states(job)) == ["COMPLETED"] * 4 + ["FAILED"]
    for number, line in enumerate(LINES):
        _, *given = json.loads((repository / f"record-{number}.json").read_text())
        assert given == ["logger=none", *as_a_shell_reads(line)]
    assert log(repository, f"{job}_4") == "error: there is no job 4 in jobs.txt; it has 4: --array=0-3\n"


def test_mistakes_are_told_in_the_log(cluster: Cluster, repository: Path):
    (repository / "open.txt").write_text("a='b\n")
    wrong = {
        "experiments/records.py open.txt": "error: job 0 of open.txt: No closing quotation: a='b",
        "experiments/records.py none.txt": "error: cannot read the jobs:",
        "experiments/none.py jobs.txt": f"error: there is no entry point {repository}/experiments/none.py",
        "experiments/records.py": "error: usage: sbatch --array=0-N slurm/array.sbatch",
    }
    jobs = {words: submit(cluster, repository, f"--array=0 slurm/array.sbatch {words}") for words in wrong}
    for words, message in wrong.items():
        job = jobs[words]
        cluster.wait_for(lambda job=job: cluster.ended(job))
        assert cluster.states(job) == ["FAILED"]
        assert log(repository, f"{job}_0").startswith(message)


def test_the_repository_is_looked_for_from_the_folder_of_submission(cluster: Cluster, repository: Path):
    below = repository / "notes" / "deep"
    below.mkdir(parents=True)
    job = run(cluster, below, "--array=1 ../../slurm/array.sbatch experiments/records.py ../../jobs.txt")
    assert cluster.states(job) == ["COMPLETED"]
    assert (below / "record-1.json").exists()
    outside = repository.parent
    job = run(cluster, outside, f"--array=0 {repository}/slurm/array.sbatch experiments/records.py x")
    assert cluster.states(job) == ["FAILED"]
    assert f"{outside} is not in the repository" in (outside / f"slurm-{job}.log").read_text()


def test_output_of_the_command_line_wins_and_the_real_environment_serves(
    cluster: Cluster, tmp_path: Path, repository: Path
):
    if shutil.which("uv") is None:
        pytest.skip("uv not installed; pip install uv")
    script = repository / "experiments" / "records.py"
    script.write_text(FINDS)
    words = f"--array=0 --output={tmp_path}/%A.log slurm/array.sbatch {script} {repository}/jobs.txt"
    job = run(cluster, REPOSITORY, words, PATH=os.environ["PATH"])
    told = (tmp_path / f"{job}.log").read_text()
    assert told.splitlines() == [f"{REPOSITORY}/knots/__init__.py ['merge=ties', 'merge.scale=0.3']"]


def test_a_job_near_its_limit_and_a_displaced_one_go_on_later(cluster: Cluster, repository: Path):
    (repository / "one.txt").write_text("job\n")
    words = "--array=0 slurm/array.sbatch experiments/goes_on.py one.txt"
    jobs = {name: submit(cluster, repository, f"{words} {name}") for name in ("limit", "displaced")}
    cluster.wait_for(lambda: all((repository / f"{name}.ready").exists() for name in jobs))
    # What --signal does once the limit is near.
    cluster.run("scancel", "--batch", "--signal=USR2", f"{jobs['limit']}_0")
    cluster.wait_for(lambda: cluster.states(jobs["limit"]) == ["PENDING"])
    cpus = cluster.run("sinfo", "--noheader", "--format=%c", "--partition=local").stdout.strip()
    cluster.run("srun", "--partition=urgent", f"--ntasks={cpus}", "true")
    assert (repository / "displaced").exists()
    for job in jobs.values():
        cluster.wait_for(lambda job=job: cluster.ended(job))
        assert cluster.states(job) == ["COMPLETED"]
        said = log(repository, f"{job}_0").splitlines()
        assert [line for line in said if line in ("saved", "goes on")] == ["saved", "goes on"]
    assert "queued again" in log(repository, f"{jobs['limit']}_0")


def test_a_job_is_not_queued_again_more_often_than_asked(cluster: Cluster, repository: Path):
    words = "--array=0 slurm/array.sbatch experiments/goes_on.py jobs.txt state"
    job = submit(cluster, repository, words, KNOTS_REQUEUES="0")
    cluster.wait_for(lambda: (repository / "state.ready").exists())
    cluster.run("scancel", "--batch", "--signal=USR2", f"{job}_0")
    cluster.wait_for(lambda: cluster.ended(job))
    assert cluster.states(job) == ["FAILED"]


def test_processes_of_a_job_are_started_by_slurm(cluster: Cluster, repository: Path):
    script = repository / "experiments" / "records.py"
    script.write_text("import os; print(os.environ['SLURM_PROCID'])")
    job = run(cluster, repository, "--array=0 --ntasks=2 slurm/array.sbatch experiments/records.py jobs.txt")
    assert sorted(log(repository, f"{job}_0").split()) == ["0", "1"]


@pytest.mark.parametrize(
    ("argument", "variable", "count"), [("", "", ""), ("3", "", "--count 3 "), ("", "5", "--count 5 ")]
)
def test_an_agent_is_asked_for_so_many_runs(
    cluster: Cluster, repository: Path, argument: str, variable: str, count: str
):
    environment = {"PATH": stub_uv(repository), "KNOTS_RUNS_PER_AGENT": variable, "WANDB_MODE": "online"}
    words = f"--array=0-1 slurm/wandb_agent.sbatch me/knots/abc123 {argument}"
    job = run(cluster, repository, words, **environment)
    for number in (0, 1):
        told = log(repository, f"{job}_{number}", "knots-agent")
        assert told == f"wandb agent {count}me/knots/abc123 in {repository}\n"


@pytest.mark.parametrize(
    ("argument", "mode", "message"),
    [("0", "online", "a whole number above 0, not '0'"), ("1", "offline", "WANDB_MODE=offline")],
)
def test_an_agent_that_cannot_work_says_so(
    cluster: Cluster, repository: Path, argument: str, mode: str, message: str
):
    words = f"--array=0 slurm/wandb_agent.sbatch me/knots/abc123 {argument}"
    job = run(cluster, repository, words, WANDB_MODE=mode)
    assert cluster.states(job) == ["FAILED"]
    assert message in log(repository, f"{job}_0", "knots-agent")
