"""Tasks whose pictures lie on the Hugging Face hub or in a folder, read with `datasets`.

A folder may hold parquet files or one folder of pictures a class, or be a copy of a hub repository.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image, UnidentifiedImageError
from pyarrow.types import is_integer

from knots.errors import KnotsError
from knots.suites.listings import Listing, content_of, list_split
from knots.suites.tables import check_columns, open_table
from knots.suites.tasks import ImageTask

FORMS = ("parquet", "imagefolder")
"""What pictures are read from."""

__all__ = ["Listing", "Rows", "content_of", "decode", "list_split", "open_rows"]


@dataclass(frozen=True, eq=False)
class Rows:
    """The items of one split as they lie in the data set.

    Attributes:
        labels: int64 [N], the task's own labels.
        table: a `datasets.Dataset` whose column of pictures is not decoded.
        column: the name of that column.
    """

    labels: npt.NDArray[np.int64]
    table: Any
    column: str

    def raw(self, items: Sequence[int]) -> list[dict[str, Any]]:
        """Encoded pictures, each with `bytes` or a `path`, or with neither where there is none."""
        return [raw or {"bytes": None, "path": None} for raw in self.table[list(items)][self.column]]


@contextmanager
def open_rows(task: ImageTask, listing: Listing, split: str, cache_dir: Path) -> Iterator[Rows]:
    """The items of one split, while the block runs; the copy that `datasets` makes is deleted afterwards.

    Args:
        task: its `source` names the columns, its classes what labels mean.
        listing: the files.
        split: the name of the split in the data set.
        cache_dir: where the copy goes for the time being.

    Raises:
        KnotsError: a file cannot be read, a column is not there or holds something else, or the data set's
            classes are not the task's.
    """
    where = f"task {task.name!r}: data set {listing.path!r}"
    with open_table(listing, split, cache_dir) as table:
        columns = {key: str(task.source.get(key, key)) for key in ("image", "label")}
        check_columns(table, columns.values(), where)
        labels = _labels(table, columns["label"], task, where)
        yield Rows(labels, _encoded(table, columns["image"], where), columns["image"])


def _encoded(table: Any, column: str, where: str) -> Any:
    """The table with pictures as they are stored."""
    import datasets

    try:
        return table.cast_column(column, datasets.Image(decode=False))
    except (TypeError, ValueError, pa.lib.ArrowException) as error:
        kind = table.features[column]
        raise KnotsError(f"{where} has no images in column {column!r}, but {kind}") from error


def _labels(table: Any, column: str, task: ImageTask, where: str) -> npt.NDArray[np.int64]:
    """The labels as the task counts them: by name where the names are the task's, else by number."""
    stored = table.with_format("arrow", columns=[column])[:][column]
    if not is_integer(stored.type):
        raise KnotsError(f"{where} has labels of type {stored.type} in column {column!r}; integers are read")
    if stored.null_count:
        raise KnotsError(f"{where} has {stored.null_count} items without a label in column {column!r}")
    values: npt.NDArray[np.int64] = stored.to_numpy().astype(np.int64)
    names = getattr(table.features[column], "names", None)
    if names is None:
        return values
    if len(names) != len(task.classes):
        raise KnotsError(f"{where} has {len(names)} classes, the task has {len(task.classes)}")
    if sorted(names) != sorted(task.classes):
        _check_numbers(names, task, where)
        return values
    order = np.array([task.classes.index(name) for name in names], dtype=np.int64)
    known = (values >= 0) & (values < len(order))
    return np.where(known, order[np.where(known, values, 0)], values)


def _check_numbers(names: Sequence[str], task: ImageTask, where: str) -> None:
    """Refuse labels by number where some of the names say that the numbers are others."""
    for number, name in enumerate(names):
        if name in task.classes and name != task.classes[number]:
            other = next(name for name in names if name not in task.classes)
            raise KnotsError(
                f"{where} has class {name!r} as number {number}, the task as number "
                f"{task.classes.index(name)}; labels cannot be mapped by name, for the task has no class "
                f"{other!r}"
            )


def decode(raw: Mapping[str, Any]) -> Image.Image:
    """Decode a picture as it is stored, not turned by its EXIF data.

    Whatever is wrong with it raises an exception, most of them Pillow's.
    """
    if raw["bytes"] is None and raw["path"] is None:
        raise ValueError("there is no picture")
    content = raw["bytes"] if raw["bytes"] is not None else Path(raw["path"]).read_bytes()
    try:
        picture = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:  # whose message has an address of memory
        raise UnidentifiedImageError("no image format that is known") from None
    picture.load()
    return picture
