"""The items of a split: made once, cached on disk, mapped into memory when read.

A cached split is a folder named after everything that determines its content. Its arrays are
written under temporary names and then renamed, the manifest last, so a folder without a valid
manifest is unfinished. What is cached under one key is always the same, so two processes that build
it at once only replace equal files by equal files.

Shapes: N items, H height, W width.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from knots.errors import KnotsError, unknown
from knots.suites import miniature
from knots.suites.tasks import ImageTask

log = logging.getLogger(__name__)

LAYOUT_VERSION = 1
"""Raised when the cached files change their form."""

MANIFEST = "manifest.json"


@dataclass(frozen=True, eq=False)
class ImageArrays:
    """The items of one split, in their own order.

    Attributes:
        images: uint8 [N, H, W, 3], RGB; read-only and mapped from disk.
        labels: int64 [N], the task's own labels.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Number of items N."""
        return len(self.labels)


@dataclass(frozen=True)
class Source:
    """A kind of source: where the items of a task can come from.

    Attributes:
        load: (task, split) -> the items, in memory.
        version: changes whenever `load` gives other items for the same task.
        options: the keys that `task.source` may have beside `kind`.
    """

    load: Callable[[ImageTask, str], ImageArrays]
    version: int
    options: tuple[str, ...]


def _draw_miniature(task: ImageTask, split: str) -> ImageArrays:
    seed = int(task.source.get("seed", 0))
    return ImageArrays(*miniature.draw_split(task.name, split, task.size(split), seed))


SOURCES: Mapping[str, Source] = {
    "miniature": Source(_draw_miniature, miniature.VERSION, options=("seed",)),
}
"""Every kind of source. To add one: a function that loads a split, and a row here."""


def load_split(task: ImageTask, split: str, cache_dir: str | Path) -> ImageArrays:
    """The items of a split, from the cache where they are there already.

    Safe under several processes at once; a damaged or unfinished cache is built again.

    Args:
        task: the task, with the number of items that each split must have.
        split: train, validation or test.
        cache_dir: the root of the caches; the split goes below `<cache_dir>/data`.

    Raises:
        KnotsError: the task has no such split, its source is unknown, or the source does not give
            the number of items or the labels that the task promises.
    """
    kind = str(task.source["kind"])
    if kind not in SOURCES:
        raise unknown(f"kind of source of task {task.name!r}:", kind, SOURCES)
    source = SOURCES[kind]
    for option in task.source:
        if option not in ("kind", *source.options):
            raise unknown(f"key of the source of task {task.name!r}:", option, ("kind", *source.options))
    folder = Path(cache_dir).expanduser() / "data" / _key(task, split, source)
    cached = _read(folder)
    if cached is None:
        log.info("building the %s split of %s", split, task.name)
        arrays = source.load(task, split)
        _check(arrays, task, split)
        _write(folder, arrays)
        cached = _read(folder)
        if cached is None:
            raise OSError(f"the cache in {folder} was written but cannot be read back")
    return cached


def _key(task: ImageTask, split: str, source: Source) -> str:
    """A readable name and a hash of everything that the items depend on."""
    content = {
        "layout": LAYOUT_VERSION,
        "task": task.name,
        "split": split,
        "size": task.size(split),
        "source": dict(task.source),
        "version": source.version,
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    return f"{task.name}-{split}-{digest[:16]}"


def _check(arrays: ImageArrays, task: ImageTask, split: str) -> None:
    where = f"the {split} split of task {task.name!r}"
    if not len(arrays.images) == len(arrays.labels) == task.size(split):
        raise KnotsError(
            f"{where} has {len(arrays.images)} images and {len(arrays.labels)} labels, "
            f"but its `sizes` promise {task.size(split)}"
        )
    if arrays.images.dtype != np.uint8 or arrays.images.ndim != 4 or arrays.images.shape[-1] != 3:
        raise KnotsError(
            f"{where} has images of {arrays.images.dtype} {arrays.images.shape}, not uint8 [N, H, W, 3]"
        )
    if len(arrays) and not (arrays.labels.min() >= 0 and arrays.labels.max() < len(task.classes)):
        raise KnotsError(
            f"{where} has labels from {arrays.labels.min()} to {arrays.labels.max()}, "
            f"but the task has {len(task.classes)} classes"
        )


def _write(folder: Path, arrays: ImageArrays) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    contents: dict[str, npt.NDArray[Any]] = {
        "images": arrays.images,
        "labels": arrays.labels.astype(np.int64),
    }
    for name, array in contents.items():
        _write_atomically(folder / f"{name}.npy", partial(np.save, arr=array))
    manifest = {name: {"shape": array.shape, "crc32": _crc32(array)} for name, array in contents.items()}
    _write_atomically(folder / MANIFEST, lambda file: file.write(json.dumps(manifest).encode()))


def _write_atomically(path: Path, write: Callable[[Any], object]) -> None:
    """Write a file so that its name only ever stands for the whole of it."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(folder: Path) -> ImageArrays | None:
    """The cached arrays, or None where they are absent or not what the manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "labels")}
        for name, array in arrays.items():
            if list(array.shape) != manifest[name]["shape"] or _crc32(array) != manifest[name]["crc32"]:
                raise ValueError(f"{name}.npy is not what was written")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        log.warning("the cache in %s is damaged (%s) and is built again", folder, error)
        return None
    return ImageArrays(arrays["images"], arrays["labels"])


def _crc32(array: npt.NDArray[Any]) -> int:
    flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return zlib.crc32(flat)
