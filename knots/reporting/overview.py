"""All finished runs of an output folder, sorted, as one view."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import RenderableType

from knots.errors import unknown
from knots.reporting.comparison import Metrics, average, joint
from knots.reporting.tables import runs_view
from knots.runs import Run, all_runs

ORDERS: Mapping[str, Callable[[Metrics], float | None]] = {
    "normalized": lambda metrics: average(metrics, "normalized").percent,
    "accuracy": lambda metrics: average(metrics, "accuracy").percent,
    "joint": lambda metrics: joint(metrics, "hits@1").percent,
}
"""Numbers to sort by, the largest first; `method` sorts by name."""


def report(output_dir: str | Path, *, sort: str) -> RenderableType:
    """A table of every finished run below `output_dir`.

    Args:
        output_dir: the root of the run folders.
        sort: a key of `ORDERS`, or "method".

    Raises:
        KnotsError: `sort` is unknown.
    """
    if sort not in (*ORDERS, "method"):
        raise unknown("sort", sort, (*ORDERS, "method"))
    folder = Path(output_dir).expanduser()
    runs = all_runs(folder)
    if not runs:
        return f"no finished runs below {folder}"
    return runs_view([(run.run_id, run.metrics) for run in sorted(runs, key=lambda run: _place(run, sort))])


def _place(run: Run, sort: str) -> tuple[bool, float, str]:
    """Runs without the number come last; ties go by method."""
    method = str(run.metrics["merge"]["method"])
    number = ORDERS[sort](run.metrics) if sort in ORDERS else 0.0
    return number is None, -(number or 0.0), method
