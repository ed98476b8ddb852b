"""Sweeps on a cluster: what was submitted, how far each job is, and what to run again.

A sweep is a folder: `sweep.json` says what was asked for and under which names Slurm knows it, `logs/` is
written by submitit and `jobs/<number>/` by the jobs (see `_jobs`). Any terminal sees the same.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments._jobs import DONE, FAILED, STARTED, Job
from knots.errors import KnotsError, unknown
from knots.files import write_whole

MANIFEST = "sweep.json"
SCHEMA = 1
SHARED = (
    *("nodes", "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "name"),
    "stderr_to_stdout",
)
"""Keys of resources that submitit has for every kind of cluster."""

QUEUED = ("running", "pending")
WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "SUSPENDED", "STOPPED"}
"""States of Slurm in which a job does nothing yet, or not now."""


@dataclass
class Entry:
    """One job of a sweep.

    Attributes:
        overrides: of the entry point's configuration.
        resources: what it asks of the cluster, as keys of the launcher.
        ids: Slurm's names of its attempts, the last one counts.
    """

    overrides: list[str]
    resources: dict[str, Any]
    ids: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        state: done, failed, running, pending, or missing: neither finished nor in the queue.
        record: what the job wrote last; empty where it has not begun.
        log: its log; None where there is none.
    """

    state: str
    record: Mapping[str, Any]
    log: Path | None


class Sweep:
    """A sweep on disk.

    Args:
        folder: of the sweep.
        entry: name of the entry point.
        jobs: in the order of their numbers.
        created: when it was first submitted.
    """

    def __init__(self, folder: Path, entry: str, jobs: list[Entry], created: str) -> None:
        self.folder, self.entry, self.jobs, self.created = folder, entry, jobs, created

    @classmethod
    def open_or_make(cls, folder: Path, entry: str) -> Sweep:
        """The sweep of a folder; a new one where there is none yet."""
        if (folder / MANIFEST).is_file():
            return cls.load(folder)
        return cls(folder, entry, [], datetime.now(UTC).isoformat("T", "seconds"))

    @classmethod
    def load(cls, folder: Path) -> Sweep:
        """The sweep of a folder.

        Raises:
            KnotsError: it has no manifest, or none that can be read.
        """
        path = folder / MANIFEST
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            jobs = [Entry(**entry) for entry in found["jobs"]]
            return cls(folder, found["entry"], jobs, found["created"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise KnotsError(f"{path} is no manifest of a sweep: {error}") from error

    def save(self) -> None:
        """Write the manifest."""
        content = {
            "schema": SCHEMA,
            "entry": self.entry,
            "created": self.created,
            "jobs": [asdict(entry) for entry in self.jobs],
        }
        write_whole(self.folder / MANIFEST, (json.dumps(content, indent=2) + "\n").encode())

    def add(self, wanted: Sequence[tuple[list[str], dict[str, Any]]]) -> None:
        """Take up jobs, by their overrides and resources; they are submitted by `submit`."""
        self.jobs.extend(Entry(overrides, resources) for overrides, resources in wanted)
        self.save()

    def place(self, number: int) -> Path:
        """Where a job writes how far it is."""
        return self.folder / "jobs" / str(number)

    def submit(self, numbers: Sequence[int] | None = None) -> None:
        """Submit jobs, those that ask for the same as one array.

        Args:
            numbers: which; None is all that never were.

        Raises:
            KnotsError: Slurm is not there or refuses them; what was submitted until then is in the manifest.
        """
        if numbers is None:
            numbers = [number for number, entry in enumerate(self.jobs) if not entry.ids]
        alike: dict[str, list[int]] = {}
        for number in numbers:
            alike.setdefault(json.dumps(self.jobs[number].resources, sort_keys=True), []).append(number)
        for members in alike.values():
            for number, name in zip(members, self._submit_array(members), strict=True):
                self.jobs[number].ids.append(name)
            self.save()

    def cancel(self) -> list[int]:
        """Take every job that has not ended from the cluster.

        Returns:
            Their numbers.

        Raises:
            KnotsError: Slurm cannot be asked, or refuses.
        """
        found = [number for number, one in enumerate(self.progress()) if one.state in QUEUED]
        if found:
            _slurm("cannot cancel", "scancel", *(self.jobs[number].ids[-1] for number in found))
        return found

    def resubmit(self, changes: Mapping[str, Any]) -> list[int]:
        """Submit again what has failed or is missing.

        Args:
            changes: other resources than last time, as keys of the launcher.

        Returns:
            The numbers of the jobs.

        Raises:
            KnotsError: as `submit`; or a key is not one of the launcher's.
        """
        found = [number for number, one in enumerate(self.progress()) if one.state in ("failed", "missing")]
        for number in found:
            self.jobs[number].resources |= changes
        self.submit(found)
        return found

    def _submit_array(self, numbers: Sequence[int]) -> list[str]:
        """Slurm's names of jobs that ask for the same."""
        import submitit

        given = dict(self.jobs[numbers[0]].resources)
        logs, timeouts = given.pop("submitit_folder"), given.pop("max_num_timeout", 0)
        # Slurm puts a job whose node failed, or which gave way to another, back into the queue.
        given["additional_parameters"] = {"requeue": True, **(given.get("additional_parameters") or {})}
        given = {key if key in SHARED else f"slurm_{key}": value for key, value in given.items()}
        try:
            executor = submitit.AutoExecutor(logs, cluster="slurm", slurm_max_num_timeout=timeouts)
            executor.update_parameters(**given)
            with executor.batch():
                sent = [executor.submit(self._job(number)) for number in numbers]
        except (RuntimeError, ValueError, TypeError, NameError, OSError) as error:
            raise KnotsError(f"Slurm did not take the jobs of {self.folder}: {error}") from error
        return [str(job.job_id) for job in sent]

    def _job(self, number: int) -> Job:
        entry = self.jobs[number]
        # Half of the time between the signal and the limit is for queueing again.
        grace = max(1, int(entry.resources.get("signal_delay_s", 120)) // 2)
        return Job(self.entry, tuple(entry.overrides), str(self.place(number)), grace)

    def progress(self) -> list[Progress]:
        """How far every job is, in the order of their numbers."""
        queue = queued(entry.ids[-1] for entry in self.jobs if entry.ids)
        return [self._progress(number, queue) for number in range(len(self.jobs))]

    def _progress(self, number: int, queue: Mapping[str, str]) -> Progress:
        entry, place = self.jobs[number], self.place(number)
        name = entry.ids[-1] if entry.ids else ""
        logs = Path(entry.resources["submitit_folder"]) / f"{name}_0_log.out"
        log = logs if name and logs.is_file() else None
        for state, file in (("done", DONE), ("failed", FAILED)):
            record = _read(place / file)
            # What an earlier attempt left says nothing of this one.
            if record is not None and record.get("job") == name:
                return Progress(state, record, log)
        return Progress(queue.get(name, "missing"), _read(place / STARTED) or {}, log)


def queued(names: Iterable[str]) -> dict[str, str]:
    """Slurm's name of a job -> running or pending, for those that are in its queue.

    Raises:
        KnotsError: Slurm cannot be asked.
    """
    asked = {name: name.partition("_")[0] for name in names}
    if not asked:
        return {}
    arrays = ",".join(sorted({*asked.values()}))
    query = ("squeue", "--noheader", "--array", "--format=%i|%T", f"--jobs={arrays}")
    # Of a single job that is gone for long, Slurm says that it never was.
    answer = _slurm("cannot ask Slurm how far the jobs are", *query, accepted="Invalid job id")
    lines = (line.strip().partition("|") for line in answer.splitlines())
    return {name: "pending" if state in WAITING else "running" for name, _, state in lines if name in asked}


def _slurm(failure: str, *command: str, accepted: str | None = None) -> str:
    """What a command of Slurm prints; an error that says `accepted` is no failure.

    Raises:
        KnotsError: it cannot be run, or fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KnotsError(f"{failure}: {command[0]}: {error}") from error
    if done.returncode and not (accepted and accepted in done.stderr):
        raise KnotsError(f"{failure}: {done.stderr.strip() or command[0]}")
    return done.stdout


def find_sweep(output_dir: Path, named: str | None) -> Sweep:
    """A sweep by its folder or the name of it; None is the one that was submitted last.

    Raises:
        KnotsError: there is none.
    """
    place = output_dir / ".sweeps"
    if named is not None:
        candidates = [folder for folder in (Path(named), place / named) if (folder / MANIFEST).is_file()]
    else:
        candidates = sorted((path.parent for path in place.glob(f"*/{MANIFEST}")), reverse=True)
    if candidates:
        return Sweep.load(candidates[0].absolute())
    known = sorted(path.parent.name for path in place.glob(f"*/{MANIFEST}"))
    if named is not None and known:
        raise unknown("sweep", named, known)
    raise KnotsError(
        f"no sweep below {place}; submit one with -m hydra/launcher=slurm, as "
        "uv run experiments/merge.py -m hydra/launcher=slurm merge=ties,knots_ties"
    )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
