"""The log of a search's trials: one line of JSON each, written as soon as it is scored."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from knots.errors import KnotsError
from knots.search.trials import Trial

log = logging.getLogger(__name__)


class TrialLog:
    """The trials that one question has had so far, on disk.

    All procedures that ask the same question (same base, adapters, items and merge but for the options that
    are searched) share one log. Several processes may append to it: a line is written in one piece, and two
    trials of one candidate are the same.

    Args:
        path: of the file; made with the first trial.
        writes: whether this process keeps trials, as the first one of several does.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self._known = {trial.key: trial for trial in _read(path)}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, options: Mapping[str, float], seed: int) -> Trial | None:
        """The trial of a candidate, if it was scored."""
        return self._known.get((seed, *sorted(options.items())))

    def add(self, trial: Trial) -> None:
        """Keep a trial; it is on disk when this returns.

        Raises:
            KnotsError: the file cannot be written.
        """
        self._known[trial.key] = trial
        if not self.writes:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _append(self.path, json.dumps(trial.to_json(), allow_nan=False))
        except OSError as error:
            raise KnotsError(f"cannot write the trials to {self.path}: {error.strerror}") from error

    def forget(self) -> None:
        """Start anew."""
        self._known.clear()
        if self.writes:
            self.path.unlink(missing_ok=True)


def _append(path: Path, line: str) -> None:
    # A line that was cut off by a kill ends where the next one starts.
    with path.open("ab+") as file:
        file.seek(0, os.SEEK_END)
        torn = False
        if file.tell():
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        file.write((("\n" if torn else "") + line + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> list[Trial]:
    """The trials of a file; lines that were cut off are passed over."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    trials = []
    for line in lines:
        try:
            trials.append(Trial(**json.loads(line)))
        except (ValueError, TypeError):
            log.warning("%s: a line that was cut off is passed over; its trial is run again", path)
    return trials
