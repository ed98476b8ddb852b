"""Figures that were published, each with where it was seen; kept in a CSV file, never typed into code."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from knots.errors import KnotsError

KEYS = ("table", "model", "setting", "method", "metric", "column")
COLUMNS = (*KEYS, "value", "source", "second_hand")
TRUTH = {"true": True, "false": False}

Key = tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """A published number.

    Attributes:
        value: percent.
        source: where it was seen.
        second_hand: it was seen where others repeat it: a digest, notes, another paper's table.
    """

    value: float
    source: str
    second_hand: bool


@dataclass(frozen=True)
class Published:
    """Published numbers by what they are of; made by `load_published`."""

    figures: Mapping[Key, Figure]

    def find(
        self, *, table: str, model: str, setting: str, method: str, metric: str, column: str
    ) -> Figure | None:
        """The figure of one cell, or None where none was seen.

        Args:
            table: of the paper: "1" to "4", "A1", "fig4"; or a name for another source.
            model: name of the model, as in `conf/model`.
            setting: "per_task" or "joint".
            method: name of the method, or "finetuned".
            metric: "accuracy", "normalized_accuracy" or "hits@k".
            column: a task's name, "average", or what the table's columns are of.
        """
        return self.figures.get((table, model, setting, method, metric, column))


def load_published(path: str | Path) -> Published:
    """Read the file of published figures.

    Args:
        path: CSV with the columns of `COLUMNS`, in that order.

    Raises:
        KnotsError: the file cannot be read, or a line is not as it should be; the message names the line
            and the key.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            lines = [(reader.line_num, line) for line in reader if line]
    except (OSError, UnicodeError, csv.Error) as error:
        raise KnotsError(f"cannot read the published figures {path}: {error}") from error
    if tuple(header) != COLUMNS:
        raise KnotsError(f"{path}, line 1: the columns are {header}, expected {list(COLUMNS)}")
    figures: dict[Key, Figure] = {}
    for number, line in lines:
        key, figure = _figure(line, f"{path}, line {number}")
        if key in figures:
            raise KnotsError(f"{path}, line {number}: {_named(key)} is there twice")
        figures[key] = figure
    return Published(figures)


def _figure(line: list[str], place: str) -> tuple[Key, Figure]:
    if len(line) != len(COLUMNS):
        raise KnotsError(f"{place}: {len(line)} values, expected {len(COLUMNS)}: {', '.join(COLUMNS)}")
    values = dict(zip(COLUMNS, (value.strip() for value in line), strict=True))
    empty = [key for key, value in values.items() if not value]
    if empty:
        raise KnotsError(f"{place}: {empty[0]} is empty")
    if values["second_hand"] not in TRUTH:
        raise KnotsError(f"{place}: second_hand={values['second_hand']!r}, expected true or false")
    key = tuple(values[name] for name in KEYS)
    return key, Figure(_number(values["value"], place), values["source"], TRUTH[values["second_hand"]])


def _number(text: str, place: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise KnotsError(f"{place}: value={text!r}, expected a number")
    return number


def _named(key: Key) -> str:
    return ", ".join(f"{name}={value}" for name, value in zip(KEYS, key, strict=True))
