"""How a sweep is shown: a line for each job, and for those that did not end well the end of their logs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from experiments._sweeps import Progress, Sweep

STYLES = {"done": "green", "failed": "red", "missing": "red", "running": "cyan", "pending": "dim"}
ENDED_BADLY = ("failed", "missing")
TAIL_BYTES = 20_000


def summary(progress: Sequence[Progress]) -> str:
    """How many jobs are how far, as `12 jobs: 10 done, 1 failed, 1 pending`."""
    counts = Counter(one.state for one in progress)
    parts = [f"{counts[state]} {state}" for state in STYLES if counts[state]]
    return f"{len(progress)} {'job' if len(progress) == 1 else 'jobs'}: {', '.join(parts) or 'none'}"


def sweep_view(sweep: Sweep, progress: Sequence[Progress], *, lines: int) -> RenderableType:
    """A table of all jobs, and what is known of those that did not end well.

    Args:
        sweep: what was submitted.
        progress: how far its jobs are, in their order.
        lines: of a log's end.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column, justify in (("job", "right"), ("state", "left"), ("Slurm", "left"), ("overrides", "left")):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    table.add_column("runs", overflow="fold")
    for number, (entry, one) in enumerate(zip(sweep.jobs, progress, strict=True)):
        name = f"{entry.ids[-1]}" if entry.ids else "not submitted"
        tried = f" (attempt {len(entry.ids)})" if len(entry.ids) > 1 else ""
        runs = ", ".join(one.record.get("runs", ()))
        state = Text(one.state, style=STYLES[one.state])
        table.add_row(str(number), state, name + tried, Text(" ".join(entry.overrides)), Text(runs))
    parts: list[RenderableType] = [table]
    for number, one in enumerate(progress):
        if one.state in ENDED_BADLY:
            parts.append(_why(number, one, lines))
    parts.append(Text(f"{sweep.entry}, {summary(progress)}; {sweep.folder}"))
    return Group(*parts)


def _why(number: int, one: Progress, lines: int) -> Text:
    """What a job that did not end well leaves behind."""
    told = [f"job {number} {one.state}: {one.record.get('message', 'it left no record of its end')}"]
    if one.log is not None:
        told += [f"  {line}" for line in tail(one.log, lines)]
        told.append(f"  ({one.log})")
    return Text("\n".join(told))


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log that have something on them; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:] if lines else []
