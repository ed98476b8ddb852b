"""A real Slurm cluster of one node for the tests, started and stopped by the scripts of slurm/local."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun")


@dataclass(frozen=True)
class Cluster:
    """A cluster of one node with the partitions `local` and, displacing its jobs, `urgent`.

    Attributes:
        folder: everything of it: slurm.conf, log/, run/.
        environment: of a process that is to find it, as a login node's user has it.
    """

    folder: Path
    environment: Mapping[str, str]

    def run(
        self,
        *command: str | Path,
        cwd: Path | None = None,
        check: bool = True,
        environment: Mapping[str, str] | None = None,
        seconds: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command that finds the cluster; a failure shows what it said, unless `check` is false."""
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd or self.folder,
            env={**self.environment, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode:
            pytest.fail(f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def script(self, name: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of slurm/local: install, start, check, stop."""
        return self.run(REPOSITORY / "slurm" / "local" / name, check=check)

    def submit(self, *words: str | Path, cwd: Path, environment: Mapping[str, str] | None = None) -> str:
        """Run sbatch; the job's number."""
        return self.run("sbatch", "--parsable", *words, cwd=cwd, environment=environment).stdout.strip()

    def states(self, job: str) -> list[str]:
        """Of a job, or of each job of an array: PENDING, RUNNING, COMPLETED, FAILED, ..."""
        asked = ("squeue", "--noheader", "--array", "--states=all", "--format=%T", f"--jobs={job}")
        return self.run(*asked).stdout.split()

    def ended(self, job: str) -> bool:
        """Whether a job, or all of an array's, came to an end, whichever it was."""
        return not {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED"} & set(self.states(job))

    def elapsed(self, job: str) -> int:
        """Seconds for which a job has been running."""
        shown = self.run("squeue", "--noheader", "--format=%M", f"--jobs={job}").stdout.strip()
        parts = [int(part) for part in shown.replace("-", ":").split(":")]
        return sum(part * unit for part, unit in zip(reversed(parts), (1, 60, 3600, 86400), strict=False))

    def wait_for(self, predicate: Callable[[], object], seconds: float = 60) -> None:
        """Look until it is true; a failure shows the queue."""
        end = time.monotonic() + seconds
        while not predicate():
            if time.monotonic() > end:
                queue = self.run("squeue", "--array", "--states=all", check=False).stdout
                pytest.fail(f"not so after {seconds} seconds\n{queue}")
            time.sleep(0.1)


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A new cluster in a folder of its own, stopped and removed afterwards."""
    if reason := absent():
        pytest.skip(reason)
    # Slurm's sockets lie in it, and their paths are short.
    folder = Path(tempfile.mkdtemp(prefix="knots-slurm-", dir="/tmp"))
    others = ("SLURM_", "SBATCH_", "SRUN_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(others)}
    own = {"PATH": search_path(), "KNOTS_SLURM_LOCAL": str(folder), "SLURM_CONF": str(folder / "slurm.conf")}
    cluster = Cluster(folder, kept | own)
    try:
        cluster.script("start")
        yield cluster
    finally:
        cluster.script("stop")
        shutil.rmtree(folder, ignore_errors=True)


def search_path() -> str:
    """Where programs are, daemons included, which not every user's path has."""
    return os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


def absent() -> str | None:
    """Why there can be no cluster on this machine; None if there can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]
    return f"{', '.join(missing)} not installed; slurm/local/install installs Slurm" if missing else None


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster that tests share."""
    with running_cluster() as one:
        yield one


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder; skip them all where Slurm is not installed."""
    reason = absent()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slurm)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))
