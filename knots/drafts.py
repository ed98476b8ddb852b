"""Run folders in the making: written under a temporary name, renamed when whole, never half there."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from knots.errors import KnotsError
from knots.provenance import describe_machine, now
from knots.runs import CONFIG, METRICS, PROVENANCE, RESULTS_VERSION, is_first_process, put_back

FORGOTTEN_AFTER = 7 * 24 * 3600.0
"""Seconds after which the partial folder of a process on another machine counts as left behind."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BARRED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


@dataclass
class Draft:
    """A run in the making.

    Attributes:
        folder: the temporary folder to write into.
        metrics: what goes to `metrics.json`; set before the frame ends.
        measured: what goes to `provenance.json` beside machine and versions: facts about this one making of
            the run, as its speed, which another making of the same run does not share.
    """

    folder: Path
    metrics: dict[str, Any]
    measured: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def writing(
    root: Path, name: str, *, config: Mapping[str, Any], identity: Mapping[str, Any]
) -> Iterator[Draft]:
    """The frame of all runs: a folder to write into, which gets its name when the block ends well.

    Writes `config.yaml`, `log.txt`, `metrics.json` and `provenance.json` itself. A run of that name that is
    already there stays until the new one is whole, and is then replaced. In a job of several processes only
    the first one leaves a folder.

    Args:
        root: the folder of the run folders.
        name: the run id.
        config: the resolved configuration.
        identity: what the run id was made from, kept for later readers.

    Raises:
        KnotsError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    folder = root / f".{name}.partial-{socket.gethostname()}-{os.getpid()}"
    started = now()
    with _clear_about_writing(folder):
        root.mkdir(parents=True, exist_ok=True)
        _sweep_out(root)
        folder.mkdir()
        try:
            _write(folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
            draft = Draft(folder, {})
            with _log_file(folder / "log.txt"):
                yield draft
            _write_json(folder / METRICS, draft.metrics)
            provenance = {
                "started": started,
                "finished": now(),
                "results_version": RESULTS_VERSION,
                **describe_machine(),
                **draft.measured,
                "identity": identity,
            }
            _write_json(folder / PROVENANCE, provenance)
            if is_first_process():
                _publish(folder, root / name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _publish(partial: Path, final: Path) -> None:
    """Give a whole folder its name. An older one is set aside first and put back if this fails."""
    old = final.with_name(f".{final.name}.replaced-{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        final.rename(old)
    try:
        partial.rename(final)
    except OSError:
        # Another process finished the same run in between: the same question has the same answer.
        if not final.is_dir():
            put_back(final)
            raise
    shutil.rmtree(old, ignore_errors=True)


def _sweep_out(root: Path) -> None:
    """Delete the partial folders of processes that no longer live."""
    for partial in root.glob(".*.partial-*"):
        host, _, process = partial.name.rpartition(".partial-")[2].rpartition("-")
        with contextlib.suppress(OSError):
            age = time.time() - partial.stat().st_mtime
            if age > FORGOTTEN_AFTER or (host == socket.gethostname() and not _lives(process)):
                shutil.rmtree(partial, ignore_errors=True)
    for kept in root.glob(".*.tasks"):
        with contextlib.suppress(OSError):
            if time.time() - kept.stat().st_mtime > FORGOTTEN_AFTER:
                shutil.rmtree(kept, ignore_errors=True)
    for old in root.glob(".*.replaced-*"):
        if (root / old.name[1:].partition(".")[0]).is_dir() and not _lives(old.name.rpartition("-")[2]):
            shutil.rmtree(old, ignore_errors=True)


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def _clear_about_writing(folder: Path) -> Iterator[None]:
    """Turn a full disk or a forbidden folder into a message; other errors pass."""
    try:
        yield
    except Exception as error:
        reason = _writing_failed(error, folder.parent)
        if reason is None:
            raise
        raise KnotsError(
            f"cannot write {getattr(error, 'filename', None) or folder}: {reason}. Nothing of this run was "
            "kept; make room, or name another place with paths.output_dir=..."
        ) from error


def _writing_failed(error: Exception, root: Path) -> str | None:
    """Why writing failed, or None if the error is about something else."""
    if isinstance(error, KnotsError):
        return None
    if isinstance(error, OSError) and error.errno is not None:
        below = Path(str(error.filename or "")).is_relative_to(root)
        barred = error.errno in BARRED and (below or root.is_relative_to(str(error.filename or "-")))
        return os.strerror(error.errno) if error.errno in FULL or barred else None
    # Rust and C++ writers (safetensors, arrow) hide the error number in their text.
    return next((os.strerror(n) for n in FULL if os.strerror(n) in str(error)), None)


class _LogFile(logging.FileHandler):
    """A log file whose failures end the run instead of printing a traceback beside it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002
        raise


@contextlib.contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Write what the package logs to a file as well."""
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("knots")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        with contextlib.suppress(OSError):
            handler.close()


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    _write(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
