"""Run folders: what a run is called, how it becomes whole, and what is known about how it was made.

A run is named after what determines its result, so the same question finds the same folder. It is written
under a temporary name and renamed when everything is in it: a folder with the run's own name is finished.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
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

import pandas as pd
import yaml

from knots.errors import KnotsError
from knots.provenance import describe_machine, now

log = logging.getLogger(__name__)

RESULTS_VERSION = 2
"""Raised whenever the same configuration gives other numbers than before."""

SCHEMA = 1
"""Raised whenever the keys of `metrics.json` change their meaning."""

METRICS = "metrics.json"
PROVENANCE = "provenance.json"
CONFIG = "config.yaml"
PREDICTIONS = "predictions.parquet"
FORGOTTEN_AFTER = 7 * 24 * 3600.0
"""Seconds after which the partial folder of a process on another machine counts as left behind."""

# Written in C where the library was built with it: a page of many runs reads many files.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BARRED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def run_id(identity: Mapping[str, Any]) -> str:
    """The first 12 hex digits of SHA-256 over canonical JSON of `identity` and `RESULTS_VERSION`.

    Args:
        identity: everything that determines the result, as plain values; the order of keys does not
            matter, and 1 and 1.0 are the same number.
    """
    canonical = json.dumps(
        _canonical({**identity, "results_version": RESULTS_VERSION}),
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where it is; the last part is the run id.
        metrics: what `metrics.json` holds.
        fresh: True if this call made it, False if it was found.
    """

    folder: Path
    metrics: Mapping[str, Any]
    fresh: bool = False

    @property
    def run_id(self) -> str:
        """The run's name."""
        return self.folder.name

    def provenance(self) -> Mapping[str, Any]:
        """What `provenance.json` holds; empty where it cannot be read."""
        return _mapping(self.folder / PROVENANCE) or {}

    def config(self) -> Mapping[str, Any]:
        """What `config.yaml` holds; empty where it cannot be read."""
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
            config = yaml.load((self.folder / CONFIG).read_text(encoding="utf-8"), Loader=_LOADER)
            return config if isinstance(config, dict) else {}
        return {}

    def predictions(self) -> pd.DataFrame:
        """Label and prediction of every item, as `EvaluationResult.predictions`.

        Raises:
            KnotsError: the run keeps none, or they cannot be read.
        """
        try:
            return pd.read_parquet(self.folder / PREDICTIONS)
        except (OSError, ValueError) as error:
            raise KnotsError(
                f"{self.folder} holds no readable {PREDICTIONS} ({error}); delete it or use force=true"
            ) from error


def find_run(root: Path, name: str) -> Run | None:
    """The finished run `name` below `root`, or None.

    Raises:
        KnotsError: a folder of that name is there but holds no readable metrics.
    """
    folder = root / name
    _put_back(folder)
    if not folder.is_dir():
        return None
    try:
        return Run(folder, json.loads((folder / METRICS).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise KnotsError(
            f"{folder} is a run folder without readable {METRICS} ({error}); delete it or use force=true"
        ) from error


def all_runs(output_dir: Path) -> list[Run]:
    """Every finished run of a merge or a baseline below `output_dir`, in the order of their folders.

    What is not a run is passed over.
    """
    return [
        run
        for run in all_records(output_dir)
        if "record" not in run.metrics and {"merge", "per_task"} <= run.metrics.keys()
    ]


def all_records(output_dir: Path) -> list[Run]:
    """Everything finished below `output_dir`, whatever made it, in the order of the folders.

    Works while other processes write: partial folders have a leading dot, and a folder that goes away
    between listing and reading is not there.
    """
    found = []
    for path in sorted(output_dir.glob(f"*/*/{METRICS}")):
        if any(part.startswith(".") for part in path.relative_to(output_dir).parts):
            continue
        metrics = _mapping(path)
        if metrics is not None and "schema" in metrics:
            found.append(Run(path.parent, metrics))
    return found


def _mapping(path: Path) -> dict[str, Any] | None:
    """A mapping from a JSON file; None where there is none, or not a whole one."""
    with contextlib.suppress(OSError, ValueError):
        values = json.loads(path.read_text(encoding="utf-8"))
        return values if isinstance(values, dict) else None
    return None


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


def is_first_process() -> bool:
    """True in the process of a distributed job that writes and prints, and in every job of one process."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank), "0") == "0"


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
            _put_back(final)
            raise
    shutil.rmtree(old, ignore_errors=True)


def _put_back(final: Path) -> None:
    """Undo a replacement that was cut off between its two renames."""
    if not final.is_dir():
        for old in final.parent.glob(f".{final.name}.replaced-*"):
            with contextlib.suppress(OSError):
                old.rename(final)


def _sweep_out(root: Path) -> None:
    """Delete the partial folders of processes that no longer live."""
    for partial in root.glob(".*.partial-*"):
        host, _, process = partial.name.rpartition(".partial-")[2].rpartition("-")
        with contextlib.suppress(OSError):
            age = time.time() - partial.stat().st_mtime
            if age > FORGOTTEN_AFTER or (host == socket.gethostname() and not _lives(process)):
                shutil.rmtree(partial, ignore_errors=True)
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
