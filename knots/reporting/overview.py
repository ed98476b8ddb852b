"""Everything finished below an output folder, and the table of its runs in every format."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, RenderableType
from rich.text import Text

from knots.errors import unknown
from knots.reporting import render
from knots.reporting.comparison import HITS, Metrics, Value, average, has_joint, joint
from knots.reporting.sheets import Cell, Row, Sheet
from knots.reporting.tables import SHORT, blocks_of, run_number, runs_view, told_options
from knots.runs import Run
from knots.store import frame_of, merge_runs, records

ORDERS: Mapping[str, Callable[[Metrics], float | None]] = {
    "normalized": lambda metrics: average(metrics, "normalized").percent,
    "accuracy": lambda metrics: average(metrics, "accuracy").percent,
    "joint": lambda metrics: joint(metrics, "hits@1").percent,
}
"""Numbers to sort by, the largest first; `method` sorts by name."""

KINDS = ("experiment", "search", "analysis")
WIDTH = 160
"""Characters of a line of `runs.txt`."""


@dataclass(frozen=True)
class Overview:
    """What is finished below an output folder.

    Attributes:
        folder: the output folder.
        runs: of merges and baselines, in the order in which they are shown.
        records: kind -> what else is finished, in the order of the folders.
    """

    folder: Path
    runs: tuple[Run, ...]
    records: Mapping[str, tuple[Run, ...]]

    @property
    def empty(self) -> bool:
        """Whether nothing at all is finished."""
        return not self.runs and not any(self.records.values())


def read_overview(output_dir: str | Path, *, sort: str) -> Overview:
    """Read what is finished, of every experiment the last result.

    Results that an older version of the code made are left out with a warning.

    Args:
        output_dir: the root of the run folders.
        sort: a key of `ORDERS`, or "method".

    Raises:
        KnotsError: `sort` is unknown.
    """
    if sort not in (*ORDERS, "method"):
        raise unknown("sort", sort, (*ORDERS, "method"))
    folder = Path(output_dir).expanduser()
    runs = sorted(merge_runs(folder), key=lambda run: _place(run, sort))
    found = {kind: records(folder, kind) for kind in KINDS}
    found["experiment"] = _newest(found["experiment"])
    return Overview(folder, tuple(runs), {kind: tuple(some) for kind, some in found.items()})


def _newest(experiments: Iterable[Run]) -> list[Run]:
    """The last result of every experiment: those before it had fewer runs, or other overrides."""
    newest: dict[str, Run] = {}
    for run in sorted(experiments, key=lambda run: str(run.provenance().get("finished"))):
        newest[str(run.metrics.get("experiment", run.folder.parent.name))] = run
    return [newest[name] for name in sorted(newest)]


def _place(run: Run, sort: str) -> tuple[bool, float, str]:
    """Runs without the number come last; ties go by method."""
    method = str(run.metrics["merge"]["method"])
    number = ORDERS[sort](run.metrics) if sort in ORDERS else 0.0
    return number is None, -(number or 0.0), method


def text(overview: Overview) -> RenderableType:
    """The table of all runs for a terminal; a sentence where there are none."""
    if overview.runs:
        return runs_view([(run.run_id, run.metrics) for run in overview.runs])
    return Text(f"no finished runs below {overview.folder}")


def plain(overview: Overview) -> str:
    """The same without colours, for a file."""
    console = Console(width=WIDTH, file=io.StringIO(), color_system=None, force_terminal=False, emoji=False)
    with console.capture() as captured:
        console.print(text(overview))
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def markdown(overview: Overview) -> str:
    """One table a model, suite and split."""
    return "\n".join(render.markdown(sheet) for sheet in runs_sheets(overview.runs))


def latex(overview: Overview) -> str:
    """One `table` environment a model, suite and split."""
    return "\n".join(render.latex(sheet) for sheet in runs_sheets(overview.runs))


def csv(overview: Overview) -> str:
    """The frame of `knots.store`: one line a run with every option and every number in full."""
    return frame_of(overview.runs).to_csv(index=False, lineterminator="\n")


WRITTEN: Mapping[str, Callable[[Overview], str]] = {
    "text": plain,
    "markdown": markdown,
    "latex": latex,
    "csv": csv,
}
"""The formats of the table of all runs."""


def written(overview: Overview, form: str) -> str:
    """The table of all runs as text in one of the formats of `WRITTEN`.

    Raises:
        KnotsError: the format is unknown.
    """
    if form not in WRITTEN:
        raise unknown("format", form, WRITTEN)
    return WRITTEN[form](overview)


def runs_sheets(runs: tuple[Run, ...]) -> list[Sheet]:
    """A sheet a model, suite and split, with a row a run; intervals are left to the frame."""
    blocks = blocks_of((run.run_id, run.metrics) for run in runs)
    return [_sheet(f"runs_{place}", *block) for place, block in enumerate(blocks.items(), 1)]


def _sheet(name: str, title: str, runs: list[tuple[str, Metrics]]) -> Sheet:
    tasks = dict.fromkeys(task for _, metrics in runs for task in metrics["per_task"])
    hits = [f"hits@{k}" for k in HITS[:3]] if any(has_joint(metrics) for _, metrics in runs) else []
    columns = (*tasks, "average", "normalized", *hits)
    rows = tuple(
        Row(_label(run, metrics), tuple(_cell(run_number(metrics, column), run) for column in columns))
        for run, metrics in runs
    )
    return Sheet(name, f"{title}, %", columns, rows)


def _label(run: str, metrics: Metrics) -> str:
    told = told_options(metrics)
    return f"{metrics['merge']['method']} ({', '.join(filter(None, [told, run[:SHORT]]))})"


def _cell(value: Value, run: str) -> Cell:
    return Cell(value.percent, run=run)
