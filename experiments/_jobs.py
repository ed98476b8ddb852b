"""What a job of a cluster does: one configuration of an entry point, with a record of how it ended.

A job that is told to stop saves what it has and is queued again; see `knots.interruption`.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from experiments._cli import TERMINATED, mistake_of, run_composed, say

STARTED, DONE, FAILED = "started.json", "done.json", "failed.json"
ENTRY_POINTS = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Job:
    """One job, as submitit sends it to the cluster.

    Attributes:
        entry: name of the entry point.
        overrides: of its configuration.
        folder: where its record goes.
        grace: seconds from a signal until the work is cut off where it stands; what is on disk stays.
    """

    entry: str
    overrides: tuple[str, ...]
    folder: str
    grace: int = 60

    def __call__(self) -> str:
        """Run it; returns `done` or `failed`. An error is recorded and not raised."""
        from knots.interruption import Interrupted

        began = time.time()
        self._record(STARTED)
        requeue = signal.getsignal(signal.SIGUSR2)
        try:
            with _attentive(self.grace):
                failures, runs = self._run()
        except Interrupted as stop:
            return self._leave(str(stop), requeue)
        except SystemExit as stop:
            # Lightning's own way of ending at SIGTERM.
            if type(stop).__name__ != "SIGTERMException":
                raise
            return self._leave("SIGTERM", requeue)
        if failures:
            self._record(FAILED, **_described(failures[0]))
            return "failed"
        self._record(DONE, runs=runs, seconds=round(time.time() - began, 1))
        return "done"

    def checkpoint(self) -> Any:
        """What submitit queues again: the same job, which finds what it has saved."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _run(self) -> tuple[list[Exception], list[str]]:
        failures: list[Exception] = []
        runs: list[str] = []

        def finished(folders: Sequence[Path]) -> None:
            runs.extend(f"{folder.parent.name}/{folder.name}" for folder in folders)

        task = inspect.unwrap(importlib.import_module(f"experiments.{self.entry}").main)
        sys.argv = [str(ENTRY_POINTS / f"{self.entry}.py"), *self.overrides]
        try:
            run_composed(task, self.entry, failures.append, finished)
        except Exception as error:
            failures.append(error)
        return failures, runs

    def _leave(self, reason: str, requeue: Any) -> str:
        """End early: queued again by submitit, or left to Slurm where that ended the job."""
        say(f"stopped by {reason}; what was done is kept", sys.stderr)
        if not _is_first():
            # The first process queues the job again, which ends all of them.
            time.sleep(self.grace)
        if reason == "SIGTERM" and not _is_running():
            sys.exit(TERMINATED)
        requeue(signal.SIGUSR2, None)
        return "stopped"

    def _record(self, name: str, **values: Any) -> None:
        """Write how far the job is, in the place of what an earlier attempt wrote."""
        from knots.files import write_whole

        if not _is_first():
            return
        folder = Path(self.folder)
        about = {
            "job": _job_id(),
            "host": socket.gethostname(),
            "time": datetime.now(UTC).isoformat("T", "seconds"),
        }
        write_whole(folder / name, (json.dumps({**about, **values}, indent=2) + "\n").encode())
        for other in {DONE, FAILED} - {name}:
            (folder / other).unlink(missing_ok=True)


@contextlib.contextmanager
def _attentive(grace: int) -> Iterator[None]:
    """Stop the work at the next safe place once submitit's signal or SIGTERM comes."""
    from knots import interruption

    def heard(number: int, frame: FrameType | None) -> None:
        del frame
        interruption.ask(signal.Signals(number).name)
        signal.alarm(grace)

    def waited(number: int, frame: FrameType | None) -> None:
        del number, frame
        interruption.give_way()

    watched = {signal.SIGUSR2: heard, signal.SIGTERM: heard, signal.SIGALRM: waited}
    before = {number: signal.signal(number, handler) for number, handler in watched.items()}
    try:
        yield
    finally:
        signal.alarm(0)
        interruption.forget()
        for number, handler in before.items():
            signal.signal(number, handler)


def _described(error: Exception) -> dict[str, Any]:
    """An error as a record tells it, and on the log; that of a bug with its traceback."""
    message = mistake_of(error)
    if message is not None:
        say(f"error: {message}", sys.stderr)
        return {"message": message}
    traceback.print_exception(error)
    return {"message": f"{type(error).__name__}: {error}", "traceback": traceback.format_exception(error)}


def _job_id() -> str | None:
    """Slurm's name of this job, as `squeue` shows it."""
    array, place = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{place}" if array else os.environ.get("SLURM_JOB_ID")


def _is_first() -> bool:
    from knots.runs import is_first_process

    return is_first_process()


def _is_running() -> bool:
    """Whether Slurm knows nothing of an end of this job: the signal came from elsewhere, as from the node."""
    asked = ["squeue", "--noheader", "--format=%T", f"--jobs={os.environ.get('SLURM_JOB_ID')}"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == "RUNNING"
