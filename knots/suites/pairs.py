"""Tasks whose pairs of sentences lie on the Hugging Face hub or in a folder, read with `datasets`.

A folder may hold parquet, JSON lines, CSV or TSV files, or be a copy of a hub repository. What a label of the
data set means is told by the task, for data sets number the same classes differently, or name them.

Shapes: N items of the split, M items of the data set's own split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pyarrow.types import is_large_string, is_nested, is_null, is_string

from knots.errors import KnotsError, unknown
from knots.suites.listings import content_of, list_split
from knots.suites.splits import choose, held_out_identity, split_in_data
from knots.suites.tables import check_columns, open_table
from knots.suites.tasks import TextTask
from knots.suites.texts import TextItems

FORMS = ("parquet", "json", "csv")
"""What sentences are read from."""

DROPPED = -1
"""Stands for the class of items that belong to no split."""

NAMED = 3
"""Items that a message names."""

Numbers = npt.NDArray[np.int64]


@contextmanager
def open_pairs(task: TextTask, split: str, root: Path) -> Iterator[TextItems]:
    """The items of one split, while the block runs.

    Items whose label the task maps to null are dropped first: validation is taken out of what remains.

    Args:
        task: its `source` names the columns and what labels mean.
        split: train, validation or test.
        root: of the caches.

    Raises:
        KnotsError: the data set or a column is not there, a label has no meaning, labels are hidden, or
            items have no sentence.
    """
    name = split_in_data(task, split)
    numbers = label_numbers(task)
    columns = _columns(task)
    listing = list_split(task.source, name, root, FORMS)
    where = f"task {task.name!r}: data set {listing.path!r}"
    with open_table(listing, name, root) as table:
        check_columns(table, columns, where)
        labels = _labels(table, columns[-1], name, numbers, task, where)
        kept = np.flatnonzero(labels != DROPPED)
        chosen = kept[choose(task, split, labels[kept], root)]
        for column in columns[:-1]:
            _check_sentences(table, column, chosen, f"{where}, split {name!r}")

        texts = table.select_columns(list(dict.fromkeys(columns[:-1])))

        def read(items: Sequence[int]) -> tuple[list[str], list[str]]:
            rows = texts[chosen[list(items)].tolist()]
            return list(rows[columns[0]]), list(rows[columns[1]])

        yield TextItems(labels[chosen], read)


def pairs_identity(task: TextTask, split: str, root: Path) -> Mapping[str, Any]:
    """What determines the items of a split, as plain values."""
    name = split_in_data(task, split)
    meanings = label_numbers(task).items()
    return {
        "content": content_of(list_split(task.source, name, root, FORMS), root),
        "config": task.source.get("config"),
        "columns": _columns(task),
        "labels": sorted(([value, number] for value, number in meanings), key=repr),
        "split": name,
        "held_out": held_out_identity(task, split, root),
    }


def _columns(task: TextTask) -> tuple[str, str, str]:
    """The columns of the first and second sentence, and of the label."""
    for key in ("first", "second"):
        if not task.source.get(key):
            raise KnotsError(f"task {task.name!r}: source.{key} must name the column of the {key} sentence")
    return str(task.source["first"]), str(task.source["second"]), str(task.source.get("label", "label"))


def label_numbers(task: TextTask) -> dict[Any, int]:
    """From what the data set has as a label to the task's own, or to `DROPPED`.

    Raises:
        KnotsError: `source.labels` is no mapping, or names a class that the task does not have.
    """
    where, config = f"task {task.name!r}: source.labels", task.source.get("labels")
    if not isinstance(config, Mapping) or not config:
        raise KnotsError(
            f"{where} must map labels of the data set to classes, or to null to drop items, got {config!r}"
        )
    numbers = {}
    for value, name in config.items():
        if name is not None and name not in task.classes:
            raise unknown(f"class in {where}:", str(name), task.classes)
        numbers[value] = DROPPED if name is None else task.classes.index(name)
        if numbers[value] in task.absent:
            raise KnotsError(
                f"{where} maps {value!r} to {name!r}, which is among the task's `absent` classes"
            )
    return numbers


def _labels(
    table: Any, column: str, split: str, numbers: Mapping[Any, int], task: TextTask, where: str
) -> Numbers:
    """The labels as the task counts them, int64 [M]; `DROPPED` where an item is to be left out."""
    stored = _column(table, column)
    if stored.null_count:
        raise KnotsError(
            f"{where} has {stored.null_count} items without a label in column {column!r} of split {split!r}"
        )
    if is_nested(stored.type) or is_null(stored.type):
        raise KnotsError(
            f"{where} has labels of type {stored.type} in column {column!r}; integers or texts are read"
        )
    coded = stored.dictionary_encode()
    values, names = coded.dictionary.to_pylist(), getattr(table.features[column], "names", None)
    if len(values) == 1 and (values[0] == -1 or numbers.get(values[0]) == DROPPED):
        raise KnotsError(
            f"{where} has the label {values[0]!r} for all {len(stored)} items of split {split!r}: labels of "
            "that split are hidden; name another one under source.splits"
        )
    meanings = [_meaning(value, names, numbers, task, where) for value in values]
    found: Numbers = np.array(meanings, dtype=np.int64)[coded.indices.to_numpy(zero_copy_only=False)]
    return found


def _meaning(
    value: Any, names: Sequence[str] | None, numbers: Mapping[Any, int], task: TextTask, where: str
) -> int:
    """The task's number of a label, which `source.labels` gives by the label itself or by its name."""
    name = names[value] if names is not None and 0 <= value < len(names) else None
    if value not in numbers and name not in numbers:
        shown = f"{value!r} ({name})" if name else repr(value)
        known = ", ".join(map(repr, numbers))
        raise KnotsError(
            f"{where} has the label {shown}, which source.labels does not have (known: {known}); map it to a "
            "class, or to null to leave its items out"
        )
    number = numbers[value] if value in numbers else numbers[name]
    if name in task.classes and number != task.classes.index(name):
        meant = "nothing" if number == DROPPED else repr(task.classes[number])
        raise KnotsError(f"{where} calls its label {value!r} {name!r}, but source.labels maps it to {meant}")
    return number


def _column(table: Any, column: str) -> Any:
    """A whole column as an array of Arrow, which is not copied where it lies in one piece."""
    return table.with_format("arrow", columns=[column])[:][column].combine_chunks()


def _check_sentences(table: Any, column: str, chosen: Numbers, where: str) -> None:
    """Refuse a column that holds no texts, and items that lack one."""
    stored = _column(table, column)
    if len(stored) and not (is_string(stored.type) or is_large_string(stored.type)):
        raise KnotsError(f"{where} has {stored.type} in column {column!r}, not sentences")
    absent = chosen[stored.is_null().to_numpy(zero_copy_only=False)[chosen]]
    if len(absent):
        raise KnotsError(f"{where} has no sentence in column {column!r} of {_named(absent)}")


def _named(items: Numbers) -> str:
    shown = ", ".join(map(str, items[:NAMED].tolist()))
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return f"item{'s' if len(items) > 1 else ''} {shown}{more}"
