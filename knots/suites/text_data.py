"""The pairs of sentences of a split: tokenized once, cached in one file.

The file is written under a temporary name and then renamed, and holds a checksum of its content. What is
cached under one key is always the same, so two processes that build it at once only replace equal files.

Shapes: N items, S tokens of all items.
"""

from __future__ import annotations

import logging
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from knots.errors import KnotsError
from knots.files import remove_leftovers, write_whole
from knots.suites.keys import Sample, check_labels, chosen_items, folder_of
from knots.suites.tasks import TextTask
from knots.suites.text_sources import TextSource
from knots.suites.texts import TextArrays, TextItems, TextReading
from knots.suites.tokenizing import tokenize

log = logging.getLogger(__name__)

LAYOUT_VERSION = 1
"""Raised when the cached file changes its form, or the same pairs become other tokens."""

FILE = "items.safetensors"
DTYPES = {"tokens": np.int32, "starts": np.int64, "labels": np.int64}


def load_texts(
    task: TextTask, split: str, root: Path, source: TextSource, reading: TextReading, sample: Sample | None
) -> TextArrays:
    """The tokens of a split; `knots.suites.data.load_split` tells the rest."""
    folder = folder_of(task, split, root, text_identity(task, split, root, source, reading), sample)
    arrays = _read_cached(folder)
    if arrays is None:
        log.info("building the %s split of %s", split, task.name)
        with source.open(task, split, root) as items:
            _check_count(items, task, split)
            check_labels(items.labels, task, split)
            arrays = tokenize(items, chosen_items(len(items.labels), sample), task, split, reading.tokenizer)
        _tell_cut(arrays, task, split)
        _write_cached(folder, arrays)
    _check_absent(arrays.labels, task, split)
    return arrays


def cached_texts(
    task: TextTask, split: str, root: Path, source: TextSource, reading: TextReading, sample: Sample | None
) -> Path | None:
    """The folder of a split that is cached whole; `knots.suites.data.cached_split` tells the rest."""
    folder = folder_of(task, split, root, text_identity(task, split, root, source, reading), sample)
    return None if _read_cached(folder) is None else folder


def text_identity(
    task: TextTask, split: str, root: Path, source: TextSource, reading: TextReading
) -> dict[str, Any]:
    """What determines the tokens of a split, as plain values."""
    return {
        "source": dict(source.identity(task, split, root)),
        "tokenizer": dict(reading.identity),
        "max_length": task.max_length,
        "layout": LAYOUT_VERSION,
    }


def _check_count(items: TextItems, task: TextTask, split: str) -> None:
    if len(items.labels) != task.size(split):
        raise KnotsError(
            f"the {split} split of task {task.name!r} has {len(items.labels)} pairs of sentences, but its "
            f"`sizes` promise {task.size(split)}"
        )


def _check_absent(labels: npt.NDArray[np.int64], task: TextTask, split: str) -> None:
    """Refuse items of a class that the task says it does not have."""
    for number in task.absent:
        if count := int((labels == number).sum()):
            raise KnotsError(
                f"the {split} split of task {task.name!r} has {count} items of class "
                f"{task.classes[number]!r}, which is among its `absent` classes"
            )


def _tell_cut(arrays: TextArrays, task: TextTask, split: str) -> None:
    if arrays.cut:
        log.warning(
            "the %s split of task %r: %d of %d pairs are longer than %d tokens and were cut",
            *(split, task.name, arrays.cut, len(arrays), task.max_length),
        )


def _write_cached(folder: Path, arrays: TextArrays) -> None:
    tensors = {name: np.ascontiguousarray(getattr(arrays, name), dtype) for name, dtype in DTYPES.items()}
    metadata = {"cut": str(arrays.cut), "crc32": str(_checksum(tensors, arrays.cut))}
    write_whole(folder / FILE, save(tensors, metadata))
    remove_leftovers(folder, ".*.tmp")


def _read_cached(folder: Path) -> TextArrays | None:
    """What is cached, or None where it is absent or not what was written."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in DTYPES}
        cut = int(metadata["cut"])
        if str(_checksum(tensors, cut)) != metadata["crc32"]:
            raise ValueError(f"{FILE} is not what was written")
        return TextArrays(**tensors, cut=cut)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        log.warning("the cache in %s is damaged (%s) and is built again", folder, error)
        return None


def _checksum(tensors: dict[str, npt.NDArray[Any]], cut: int) -> int:
    value = zlib.crc32(str(cut).encode())
    for name in DTYPES:
        value = zlib.crc32(tensors[name].tobytes(), value)
    return value
