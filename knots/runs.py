"""Finished runs: what a run is called, how it is found, and what is known about how it was made.

A run is named after what determines its result, so the same question finds the same folder. A folder with the
run's own name is finished: see `knots.drafts` for how it comes about.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from knots.errors import KnotsError

RESULTS_VERSION = 2
"""Raised whenever the same configuration gives other numbers than before."""

SCHEMA = 1
"""Raised whenever the keys of `metrics.json` change their meaning."""

METRICS = "metrics.json"
PROVENANCE = "provenance.json"
CONFIG = "config.yaml"
PREDICTIONS = "predictions.parquet"
# Written in C where the library was built with it: a page of many runs reads many files.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
    put_back(folder)
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


def is_first_process() -> bool:
    """True in the process of a distributed job that writes and prints, and in every job of one process."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank), "0") == "0"


def put_back(final: Path) -> None:
    """Undo a replacement that was cut off between its two renames."""
    if not final.is_dir():
        for old in final.parent.glob(f".{final.name}.replaced-*"):
            with contextlib.suppress(OSError):
                old.rename(final)
