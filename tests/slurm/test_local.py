"""slurm/local: the scripts of the one-node cluster."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.slurm.conftest import REPOSITORY, Cluster, running_cluster

DAEMONS = ("munged", "slurmctld", "slurmd")


@pytest.fixture(scope="module")
def one() -> Iterator[Cluster]:
    """A cluster that tests of this file may stop and break."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def local(one: Cluster) -> Cluster:
    """It, running."""
    one.script("start")
    return one


def pids(cluster: Cluster) -> dict[str, int]:
    return {name: int((cluster.folder / "run" / f"{name}.pid").read_text()) for name in DAEMONS}


def processes(cluster: Cluster) -> list[str]:
    """What runs of a cluster: its daemons, and what runs its jobs in the folder of its logs."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            command, folder = process.cmdline(), process.cwd()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if str(cluster.folder) in f"{' '.join(command)} {folder}":
            found.append(" ".join(command))
    return found


def kill(cluster: Cluster) -> None:
    """End the daemons as a power cut does, once the queue is on disk; Slurm writes it every few seconds."""
    queue, now = cluster.folder / "state" / "job_state", time.time()
    cluster.wait_for(lambda: queue.exists() and queue.stat().st_mtime > now)
    for pid in pids(cluster).values():
        os.kill(pid, signal.SIGKILL)


def node_state(cluster: Cluster) -> str:
    return cluster.run("sinfo", "--noheader", "--partition=local", "--format=%T").stdout.strip()


def test_starting_again_leaves_what_runs(local: Cluster):
    before = pids(local)
    again = local.script("start")
    assert pids(local) == before
    assert "runs already" in again.stderr
    assert again.stdout == f"export SLURM_CONF={local.folder / 'slurm.conf'}\n"


def test_the_printed_line_shows_the_cluster_to_a_shell(local: Cluster):
    start = REPOSITORY / "slurm" / "local" / "start"
    shell = local.run("bash", "-c", f'unset SLURM_CONF; eval "$({start})"; sinfo --noheader --format=%R')
    assert shell.stdout.split() == ["local", "urgent"]


def test_check_runs_a_job_and_its_exit_code_tells(local: Cluster):
    done = local.script("check")
    assert "local*" in done.stdout
    assert "ran on localhost" in done.stdout
    local.script("stop")
    stopped = local.script("check", check=False)
    assert stopped.returncode == 1
    assert "munged does not run" in stopped.stderr


def test_jobs_of_two_processes_fit(local: Cluster):
    done = local.run("srun", "--ntasks=2", "bash", "-c", "echo $SLURM_PROCID")
    assert sorted(done.stdout.split()) == ["0", "1"]


def test_an_array_with_limited_parallelism_runs_to_its_end(local: Cluster, tmp_path: Path):
    command = f"echo $SLURM_ARRAY_TASK_ID > {tmp_path}/$SLURM_ARRAY_TASK_ID"
    job = local.submit("--array=0-3%2", "--output=/dev/null", f"--wrap={command}", cwd=tmp_path)
    local.wait_for(lambda: local.ended(job))
    assert local.states(job) == ["COMPLETED"] * 4
    for number in range(4):
        assert (tmp_path / str(number)).read_text() == f"{number}\n"


@pytest.mark.parametrize("state", ["drain", "down"])
def test_start_takes_a_node_back(local: Cluster, state: str):
    local.run("scontrol", "update", "nodename=localhost", f"state={state}", "reason=test")
    assert node_state(local).startswith(state)
    local.script("start")
    assert node_state(local) == "idle"
    local.script("check")


def test_stopping_queues_running_jobs_again_and_leaves_no_process(local: Cluster, tmp_path: Path):
    job = local.submit("--output=/dev/null", "--wrap=sleep 1000", cwd=tmp_path)
    local.wait_for(lambda: local.states(job) == ["RUNNING"])
    local.script("stop")
    assert processes(local) == []
    assert "does not run" in local.script("stop").stderr
    local.script("start")
    assert "Restarts=1" in local.run("scontrol", "show", "job", job).stdout
    local.run("scancel", job)


def test_what_was_killed_is_started_and_its_job_goes_on(local: Cluster, tmp_path: Path):
    command = f"until [ -e {tmp_path}/go ]; do sleep 0.1; done"
    job = local.submit("--output=/dev/null", f"--wrap={command}", cwd=tmp_path)
    local.wait_for(lambda: local.states(job) == ["RUNNING"])
    kill(local)
    # As after a boot: the file is there, its number is another process's.
    (local.folder / "run" / "munged.pid").write_text(f"{os.getpid()}\n")
    local.script("start")
    assert local.states(job) == ["RUNNING"]
    (tmp_path / "go").touch()
    local.wait_for(lambda: local.ended(job))
    assert local.states(job) == ["COMPLETED"]


def test_stop_ends_what_outlived_its_daemons(local: Cluster, tmp_path: Path):
    job = local.submit("--output=/dev/null", "--wrap=sleep 1001 & sleep 1002", cwd=tmp_path)
    local.wait_for(lambda: local.states(job) == ["RUNNING"])
    kill(local)
    local.script("stop")
    assert processes(local) == []
    commands = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert ["sleep", "1001"] not in commands
    assert ["sleep", "1002"] not in commands
    local.script("start")
    assert "Restarts=1" in local.run("scontrol", "show", "job", job).stdout
    local.run("scancel", job)


def test_two_clusters_live_side_by_side(local: Cluster, cluster: Cluster):
    local.script("check")
    cluster.script("check")
    local.script("stop")
    cluster.script("check")


@pytest.mark.parametrize("name", ["a folder", "a" * 70])
def test_a_folder_that_slurm_cannot_use_is_refused(local: Cluster, tmp_path: Path, name: str):
    folder = tmp_path / name
    start = REPOSITORY / "slurm" / "local" / "start"
    done = local.run(start, environment={"KNOTS_SLURM_LOCAL": str(folder)}, check=False)
    assert done.returncode == 1
    assert f"KNOTS_SLURM_LOCAL={folder}" in done.stderr
    assert not folder.exists()


def stubbed(folder: Path, **programs: str) -> dict[str, str]:
    """An environment with a few of the system's programs, none of Slurm's, and these shell scripts."""
    folder.mkdir()
    for name in ("bash", "cat", "dirname", "env", "id"):
        (folder / name).symlink_to(f"/usr/bin/{name}")
    for name, text in programs.items():
        file = folder / name.replace("_", "-")
        file.unlink(missing_ok=True)
        file.write_text(f"#!/bin/bash\n{text}\n")
        file.chmod(0o755)
    return {"PATH": str(folder), "HOME": "/nonexistent"}


def install(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    script = REPOSITORY / "slurm" / "local" / "install"
    return subprocess.run(["/bin/bash", script], env=environment, capture_output=True, text=True, check=False)


def test_install_leaves_an_installed_slurm(local: Cluster):
    assert local.script("install").stderr == "Slurm and munge are installed\n"


def test_install_says_why_it_cannot(tmp_path: Path):
    elsewhere = install(stubbed(tmp_path / "elsewhere"))
    assert elsewhere.returncode == 1
    assert "no apt-get" in elsewhere.stderr
    unprivileged = install(stubbed(tmp_path / "unprivileged", apt_get="", id="echo 1000", sudo="exit 1"))
    assert unprivileged.returncode == 1
    assert "needs root: ask for 'apt-get install slurm-wlm munge'" in unprivileged.stderr


def test_install_asks_for_the_packages(tmp_path: Path):
    log = tmp_path / "log"
    programs = {"apt_get": f'echo "$*" >>{log}', "id": "echo 1000", "sudo": 'shift; "$@"'}
    done = install(stubbed(tmp_path / "bin", **programs))
    packages = "-qq install -y --no-install-recommends slurm-wlm munge"
    assert log.read_text().splitlines() == ["-qq update", packages]
    assert done.returncode == 1
    assert "not on the path" in done.stderr
