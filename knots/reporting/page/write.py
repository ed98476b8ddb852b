"""Writes the page, and the table of all runs beside it in every format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from knots.files import write_whole
from knots.provenance import now
from knots.reporting.comparison import Value
from knots.reporting.overview import KINDS, Overview, written
from knots.reporting.page.contents import COLUMNS, TASK_COLUMNS, entry_of, record_of
from knots.runs import Run

FOLDER = "report"
ENDINGS = {"txt": "text", "md": "markdown", "tex": "latex", "csv": "csv"}
HEADINGS = {"experiment": "Experiments", "search": "Searches", "analysis": "Analyses"}


def write_page(overview: Overview) -> list[Path]:
    """Write `report/` below the output folder; the page comes last of the returned paths.

    Every file appears whole or not at all. Equal runs in several folders are told of once.

    Raises:
        OSError: a file cannot be written.
    """
    folder = overview.folder / FOLDER
    contents = {f"runs.{ending}": written(overview, form) for ending, form in ENDINGS.items()}
    contents["report.html"] = page(overview)
    for name, content in contents.items():
        write_whole(folder / name, content.encode())
    return [folder / name for name in contents]


def page(overview: Overview) -> str:
    """The HTML of the page."""
    runs = _distinct(overview.runs)
    known = {run.run_id for run in runs}
    sections = [
        (
            HEADINGS[kind],
            [record_of(run, overview.folder, known) for run in _distinct(overview.records[kind])],
        )
        for kind in KINDS
    ]
    # A template is filled with text that people chose (names, notes, paths): all of it is escaped.
    environment = Environment(
        loader=PackageLoader("knots.reporting", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "interval": _interval, "full": _full}
    return environment.get_template("report.html.j2").render(
        folder=str(overview.folder),
        written=now(),
        sections=sections,
        entries=[entry_of(run, overview.folder) for run in runs],
        columns=COLUMNS,
        task_columns=TASK_COLUMNS,
        linked=known | {record.run_id for _, records in sections for record in records},
    )


def _distinct(runs: Sequence[Run]) -> list[Run]:
    return list({run.run_id: run for run in reversed(runs)}.values())[::-1]


def _number(value: Value) -> str:
    return "-" if value.percent is None else f"{value.percent:.1f}"


def _full(value: Value) -> str:
    """Every digit, to sort by; empty where there is no number."""
    return "" if value.percent is None else repr(value.percent)


def _interval(value: Value) -> str:
    return (
        "" if value.interval is None else f"95 % interval {value.interval[0]:.2f} to {value.interval[1]:.2f}"
    )
