"""The results store: every finished run below an output folder as one table.

Nothing else reads run folders, `knots.runs` aside, which writes and finds them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from knots.runs import RESULTS_VERSION, SCHEMA, Run, all_records, all_runs, run_id

log = logging.getLogger(__name__)

FACTS = ("model", "suite", "split", "mode", "protocol")
MADE = ("commit", "started", "finished", "device", "results_version")
COLUMNS = (
    *("run", "folder", *FACTS[:2], "tasks", *FACTS[2:], "kind", "method", "seed", "normalize_by"),
    *(*MADE, "stale"),
)
"""Columns that every frame has; options of the merge and numbers follow."""

OTHER = ("schema", "merge", "seed", "notes", "leakage", "routed")
"""Keys of `metrics.json` that hold no numbers to compare."""


def frame(output_dir: str | Path, *, stale: bool = False) -> pd.DataFrame:
    """One row a finished run of a merge or a baseline, in the order of the folders.

    Args:
        output_dir: the root of the run folders; one that is not there has no runs.
        stale: keep runs whose numbers an older version made; they are left out with a warning otherwise.

    Returns:
        The columns of `COLUMNS`; the options of `knots.merge` and of the rule under their own names, and
        under `merge/<name>` where the name is taken; every number of `metrics.json` under its path, as
        `average/normalized`, `per_task/<task>/accuracy`, `joint/hits@1`, with intervals as `.../low` and
        `.../high`. Numbers are percent and float64, NaN where they do not apply.
    """
    return frame_of(merge_runs(output_dir, stale=stale))


def frame_of(runs: Sequence[Run]) -> pd.DataFrame:
    """The rows of `frame` for some of the runs, in their order."""
    rows = [_labels(run) for run in runs]
    options = [_options(run) for run in runs]
    numbers = [dict(_numbers(run.metrics)) for run in runs]
    table = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    other = pd.DataFrame(options, index=table.index)
    measured = pd.DataFrame(numbers, index=table.index, dtype="float64")
    return pd.concat([table, other, measured], axis=1)


def merge_runs(output_dir: str | Path, *, stale: bool = False) -> list[Run]:
    """Every finished run of a merge or a baseline; stale ones as `frame` says."""
    folder = Path(output_dir).expanduser()
    return _kept(all_runs(folder), folder, stale)


def records(output_dir: str | Path, kind: str, *, stale: bool = False) -> list[Run]:
    """Every finished folder of one kind, in the order of the folders; stale ones as `frame` says.

    Args:
        output_dir: the root of the run folders.
        kind: what `record` says in `metrics.json`: "search", "analysis" or "experiment".
        stale: keep those that an older version made.
    """
    folder = Path(output_dir).expanduser()
    found = [run for run in all_records(folder) if run.metrics.get("record") == kind]
    return _kept(found, folder, stale)


def finetuned_of(run: Run) -> Run | None:
    """The fine-tuned baseline of a run: the same adapters, each on its own task, on the same items.

    Returns:
        None where none is finished below the same output folder, or the run depends on no adapters.
    """
    identity = run.provenance().get("identity") or {}
    for other in all_runs(run.folder.parents[1]):
        known = other.provenance().get("identity") or {}
        if known.get("kind") == "finetuned" and not is_stale(other) and _agrees(known, identity):
            return other
    return None


def _agrees(known: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    """Whether everything that determines one result, its kind aside, is the same for another."""
    return all(identity.get(key) == value for key, value in known.items() if key != "kind")


def is_stale(run: Run) -> bool:
    """Whether the code would make other numbers today, or write them otherwise.

    Runs of before the version was kept are told by their name, which was made from it.
    """
    if _version(run.metrics.get("schema")) < SCHEMA:
        return True
    provenance = run.provenance()
    if "results_version" in provenance:
        return _version(provenance["results_version"]) < RESULTS_VERSION
    identity = provenance.get("identity")
    return isinstance(identity, Mapping) and bool(identity) and run_id(identity) != run.run_id


def _version(value: object) -> int:
    return value if isinstance(value, int) else 0


def _kept(found: list[Run], folder: Path, stale: bool) -> list[Run]:
    """The runs without stale ones, of which a warning tells."""
    if stale:
        return found
    old = [run for run in found if is_stale(run)]
    if old:
        named = ", ".join(str(run.folder.relative_to(folder)) for run in old[:3])
        log.warning(
            "%d of %d below %s were made by an older version and are left out: %s%s; make them again",
            len(old),
            len(found),
            folder,
            named,
            ", ..." if len(old) > 3 else "",
        )
    gone = {run.folder for run in old}
    return [run for run in found if run.folder not in gone]


def _labels(run: Run) -> dict[str, Any]:
    """The columns of `COLUMNS`."""
    metrics, provenance = run.metrics, run.provenance()
    identity = provenance.get("identity") or {}
    return {
        "run": run.run_id,
        "folder": str(run.folder),
        **{key: metrics.get(key) for key in FACTS},
        "tasks": tuple(metrics["per_task"]),
        "kind": metrics["merge"].get("kind"),
        "method": metrics["merge"].get("method"),
        "seed": metrics.get("seed"),
        "normalize_by": identity.get("normalize_by"),
        **{key: provenance.get(key) for key in MADE},
        "commit": (provenance.get("commit") or {}).get("hash"),
        "stale": is_stale(run),
    }


def _options(run: Run) -> dict[str, Any]:
    """The options of the merge; lists as tuples, so that rows can be grouped by them."""
    options = {key: value for key, value in run.metrics["merge"].items() if key not in ("kind", "method")}
    return {
        (f"merge/{key}" if key in COLUMNS else key): tuple(value) if isinstance(value, list) else value
        for key, value in options.items()
    }


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """Every number under its path; an interval is two of them."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if key in OTHER or isinstance(value, bool | str):
            continue
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{path}/")
        elif isinstance(value, Sequence) and len(value) == 2:
            yield from ((f"{path}/low", value[0]), (f"{path}/high", value[1]))
        elif isinstance(value, int | float) or (value is None and not _holds_more(key)):
            yield path, value


def _holds_more(key: str) -> bool:
    """Whether the key stands for several numbers where there are any."""
    return key.endswith("ci95") or key in ("macro", "joint", "router")
