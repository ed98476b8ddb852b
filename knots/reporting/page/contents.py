"""What stands on the page, as plain values for its template."""

from __future__ import annotations

import base64
import logging
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from knots.errors import KnotsError
from knots.reporting import render
from knots.reporting.comparison import (
    HITS,
    Metrics,
    Value,
    accuracy,
    average,
    joint,
    majority,
    normalized,
)
from knots.reporting.sheets import Sheet
from knots.reporting.tables import told_options
from knots.runs import Run

log = logging.getLogger(__name__)

TOLD = ("method", "protocol", "metric", "split", "chosen", "value", "evaluations", "edge", "test")
"""What is told of a search or an analysis, where its record has it."""

UNTOLD = ("run", "runs", "values")
"""What is told elsewhere: below a record are links to its runs."""

MEDIA = {".png": "image/png", ".svg": "image/svg+xml"}
PRINTED, SCREEN = 150, 96
"""Dots an inch of our figures and of a page."""

LONGEST = 12
"""Items of the longest list that is shown of a configuration: class names would drown the rest."""

TASK_COLUMNS = ("accuracy", "majority class", "unmerged base", "fine-tuned", "normalized")
COLUMNS = ("average", "normalized", *(f"hits@{k}" for k in HITS[:3]))


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        address: holds the figure whole; None where its file is not there.
        file: where it was, in the record's folder.
        caption: stands below it.
        width: in the page's pixels, of which a printed figure has fewer; None if unknown.
    """

    address: str | None
    file: str
    caption: str
    width: int | None = None


@dataclass(frozen=True)
class Record:
    """An experiment, a search or an analysis.

    Attributes:
        run_id: its id, also its anchor.
        place: its folder below the output folder.
        title: what it is.
        facts: (name, value) of what it found.
        sheets: its tables, as HTML.
        pictures: its figures.
        notes: what a reader must know.
        runs: ids of the runs it rests on.
        config: how it was configured.
        provenance: how it was made.
    """

    run_id: str
    place: str
    title: str
    facts: Sequence[tuple[str, str]]
    sheets: Sequence[Markup]
    pictures: Sequence[Picture]
    notes: Sequence[str]
    runs: Sequence[str]
    config: str
    provenance: str


@dataclass(frozen=True)
class TaskLine:
    """A task's name, its number of items, and one value for each of `TASK_COLUMNS`."""

    name: str
    items: int
    values: Sequence[Value]


@dataclass(frozen=True)
class Entry:
    """A run of a merge or a baseline.

    Attributes:
        run_id: its id, also its anchor.
        place: its folder below the output folder.
        metrics: what `metrics.json` holds.
        options: the options that tell its method's runs apart.
        numbers: one for each of `COLUMNS`.
        tasks: what it reached on each task.
        finished: when, in UTC.
        config: how it was configured.
        provenance: how it was made.
    """

    run_id: str
    place: str
    metrics: Metrics
    options: str
    numbers: Sequence[Value]
    tasks: Sequence[TaskLine]
    finished: str
    config: str
    provenance: str


def entry_of(run: Run, folder: Path) -> Entry:
    """What the page tells of a run."""
    metrics, provenance = run.metrics, run.provenance()
    return Entry(
        run_id=run.run_id,
        place=str(run.folder.relative_to(folder)),
        metrics=metrics,
        options=told_options(metrics),
        numbers=[_number(metrics, column) for column in COLUMNS],
        tasks=[_task(metrics, task) for task in metrics["per_task"]],
        finished=str(provenance.get("finished", "")),
        config=_config(run),
        provenance=_provenance(provenance),
    )


def _number(metrics: Metrics, column: str) -> Value:
    if column.startswith("hits@"):
        return joint(metrics, column)
    return average(metrics, "accuracy" if column == "average" else column)


def _task(metrics: Metrics, task: str) -> TaskLine:
    numbers = metrics["per_task"][task]
    base, finetuned = (Value(numbers.get(key)) for key in ("zero_shot", "finetuned"))
    values = (accuracy(metrics, task), majority(metrics, task), base, finetuned, normalized(metrics, task))
    return TaskLine(task, int(numbers.get("n") or 0), values)


def record_of(run: Run, folder: Path, linked: Container[str]) -> Record:
    """What the page tells of an experiment, a search or an analysis; keys that it lacks are left out.

    Args:
        run: the record.
        folder: the output folder.
        linked: ids that the page has anchors of.
    """
    values = run.metrics
    place = run.folder.relative_to(folder)
    return Record(
        run_id=run.run_id,
        place=str(place),
        title=str(values.get("title") or values.get("experiment") or place),
        facts=[(key, _worded(values[key])) for key in TOLD if values.get(key) is not None],
        sheets=[sheet for values in values.get("sheets", ()) for sheet in _sheet(values, place, linked)],
        pictures=[_picture(figure, run.folder) for figure in values.get("figures", ())],
        notes=[str(note) for note in values.get("notes", ())],
        runs=_runs(values),
        config=_config(run),
        provenance=_provenance(run.provenance()),
    )


def _runs(values: Mapping[str, Any]) -> list[str]:
    """The ids that a record names; a search names those of its test."""
    test = values.get("test")
    of_test = list((test.get("runs") or {}).values()) if isinstance(test, Mapping) else []
    return list(dict.fromkeys(str(name) for name in [*values.get("runs", ()), *of_test]))


def _sheet(values: Mapping[str, Any], place: Path, linked: Container[str]) -> list[Markup]:
    try:
        return [Markup(render.html(Sheet.from_json(values), linked))]
    except KnotsError as error:
        log.warning("%s: a table is left out: %s", place, error)
        return []


def _picture(figure: Mapping[str, Any], folder: Path) -> Picture:
    """A figure with its whole content as its address; only a file of the record's own folder."""
    file, caption = str(figure.get("file", "")), str(figure.get("caption", ""))
    path, media = (folder / file).resolve(), MEDIA.get(Path(file).suffix)
    if media is None or not path.is_relative_to(folder.resolve()):
        return Picture(None, file, caption)
    try:
        content = path.read_bytes()
    except OSError:
        return Picture(None, file, caption)
    address = f"data:{media};base64,{base64.b64encode(content).decode()}"
    return Picture(address, file, caption, _width(content) if media == "image/png" else None)


def _width(content: bytes) -> int | None:
    """The width at which a PNG of our resolution is as large as on paper."""
    pixels = int.from_bytes(content[16:20])  # a PNG's first block is its header
    return pixels * SCREEN // PRINTED or None


def _worded(value: object) -> str:
    """A value in words; of a mapping what does not apply is left out."""
    if isinstance(value, Mapping):
        told = {key: item for key, item in value.items() if key not in UNTOLD and item is not None}
        said = [f"{key} {_worded(item)}" for key, item in told.items()]
        return ", ".join(said) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_worded, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _config(run: Run) -> str:
    return _yaml(_shortened(run.config()))


def _provenance(provenance: Mapping[str, Any]) -> str:
    """All of it but the identity, which says what the configuration says."""
    return _yaml(_shortened({key: value for key, value in provenance.items() if key != "identity"}))


def _shortened(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return f"({len(value)} items)" if len(value) > LONGEST else [_shortened(item) for item in value]
    return value


def _yaml(values: Mapping[str, Any]) -> str:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text = yaml.dump(
        dict(values), Dumper=dumper, sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    return str(text) if values else "not kept"
