"""The pictures of a split: decoded once, cached on disk, mapped into memory when read.

Their arrays are written under temporary names and then renamed, the manifest last, so a folder without a
valid manifest is unfinished. What is cached under one key is always the same, so two processes that build it
at once only replace equal files by equal files.

Shapes: N items, H height, W width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from knots.errors import KnotsError
from knots.suites.cache import PIECE, Broken, ImageArrays, Pixels, read_cached, write_cached
from knots.suites.keys import Sample, check_labels, chosen_items, folder_of
from knots.suites.sources import Items, Reading, Source
from knots.suites.tasks import ImageTask

log = logging.getLogger(__name__)

LAYOUT_VERSION = 2
"""Raised when the cached files change their form."""

NAMED = 3
"""Broken pictures that a message names."""


def load_images(
    task: ImageTask, split: str, root: Path, source: Source, reading: Reading, sample: Sample | None
) -> ImageArrays:
    """The pictures of a split; `knots.suites.data.load_split` tells the rest."""
    reading = _effective(source, reading)
    folder = _folder(task, split, root, source, reading, sample)
    cached = read_cached(folder)
    if cached is None:
        log.info("building the %s split of %s", split, task.name)
        with source.open(task, split, reading, root) as items:
            _check(items, task, split)
            write_cached(folder, items.shape, _pieces(items, chosen_items(items.count, sample)))
        cached = read_cached(folder)
        if cached is None:
            raise OSError(f"the cache in {folder} was written but cannot be read back")
    _tell_broken(cached, task, split, reading)
    return cached


def cached_images(
    task: ImageTask, split: str, root: Path, source: Source, reading: Reading, sample: Sample | None
) -> Path | None:
    """The folder of a split that is cached whole; `knots.suites.data.cached_split` tells the rest."""
    folder = _folder(task, split, root, source, reading, sample)
    return None if read_cached(folder) is None else folder


def _folder(
    task: ImageTask, split: str, root: Path, source: Source, reading: Reading, sample: Sample | None
) -> Path:
    return folder_of(task, split, root, image_identity(task, split, root, source, reading), sample)


def image_identity(
    task: ImageTask, split: str, root: Path, source: Source, reading: Reading
) -> dict[str, Any]:
    """What determines the pictures of a split, as plain values."""
    transform = _effective(source, reading).transform
    identity: Mapping[str, Any] = source.identity(task, split, root)
    return {
        "source": dict(identity),
        "transform": None if transform is None else transform.identity,
        "layout": LAYOUT_VERSION,
    }


def _effective(source: Source, reading: Reading) -> Reading:
    """Without a transform where pictures are drawn at the size that it would give them."""
    if reading.transform is not None and source.size == reading.transform.size:
        return replace(reading, transform=None)
    return reading


def _pieces(
    items: Items, chosen: npt.NDArray[np.int64]
) -> Iterator[tuple[list[Pixels | Broken], Sequence[int]]]:
    for at in range(0, len(chosen), PIECE):
        numbers = chosen[at : at + PIECE].tolist()
        yield items.read(numbers), items.labels[numbers].tolist()


def _check(items: Items, task: ImageTask, split: str) -> None:
    if not items.count == len(items.labels) == task.size(split):
        raise KnotsError(
            f"the {split} split of task {task.name!r} has {items.count} images and {len(items.labels)} "
            f"labels, but its `sizes` promise {task.size(split)}"
        )
    check_labels(items.labels, task, split)


def _tell_broken(arrays: ImageArrays, task: ImageTask, split: str, reading: Reading) -> None:
    """Name and count pictures that could not be decoded; refuse them unless they are to be skipped."""
    broken = arrays.broken
    if not broken:
        return
    shown = "; ".join(broken[:NAMED]) + (f"; and {len(broken) - NAMED} more" if len(broken) > NAMED else "")
    where = f"the {split} split of task {task.name!r}"
    message = f"{where}: {len(broken)} of {len(arrays) + len(broken)} images are broken: {shown}"
    if not reading.skip_broken:
        raise KnotsError(f"{message}. Replace them, or leave them out with data.skip_broken=true")
    log.warning("%s. They are left out", message)
