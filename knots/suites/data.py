"""The items of a split: made once, cached on disk, mapped into memory when read.

A cached split is a folder named after everything that determines its content. Its arrays are written under
temporary names and then renamed, the manifest last, so a folder without a valid manifest is unfinished. What
is cached under one key is always the same, so two processes that build it at once only replace equal files by
equal files.

Shapes: N items, H height, W width.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from knots.errors import KnotsError, unknown
from knots.suites.cache import PIECE, Broken, ImageArrays, Pixels, read_cached, write_cached
from knots.suites.sources import SOURCES, DataOptions, Items, Reading, Source
from knots.suites.tasks import ImageTask

__all__ = ["DataOptions", "ImageArrays", "Reading", "Sample", "load_split", "prepare", "source_identity"]

log = logging.getLogger(__name__)

LAYOUT_VERSION = 2
"""Raised when the cached files change their form."""

NAMED = 3
"""Broken pictures that a message names."""


@dataclass(frozen=True)
class Sample:
    """A few items of a split, drawn by a seed.

    Attributes:
        count: how many; all of them where there are fewer.
        seed: of the draw.
    """

    count: int
    seed: int


def load_split(
    task: ImageTask,
    split: str,
    cache_dir: str | Path,
    reading: Reading | None = None,
    sample: Sample | None = None,
) -> ImageArrays:
    """The items of a split, from the cache where they are there already.

    Safe under several processes at once; a damaged or unfinished cache is built again.

    Args:
        task: the task, with the number of items that each split must have.
        split: train, validation or test.
        cache_dir: the root of the caches; the split goes below `<cache_dir>/data`.
        reading: how pictures are transformed; None takes them as they are.
        sample: only some of the items, which alone are then decoded.

    Raises:
        KnotsError: the task has no such split, its source is unknown or cannot be had, the source does not
            give the number of items or the labels that the task promises, or pictures are broken and are not
            to be skipped.
    """
    source, root = _source(task), Path(cache_dir).expanduser()
    reading = _effective(source, reading or Reading())
    folder = root / "data" / _key(task, split, root, reading, sample)
    cached = read_cached(folder)
    if cached is None:
        log.info("building the %s split of %s", split, task.name)
        with source.open(task, split, reading, root) as items:
            _check(items, task, split)
            write_cached(folder, items.shape, _pieces(items, _chosen(items.count, sample)))
        cached = read_cached(folder)
        if cached is None:
            raise OSError(f"the cache in {folder} was written but cannot be read back")
    _tell_broken(cached, task, split, reading)
    return cached


def prepare(
    tasks: list[tuple[ImageTask, str]], cache_dir: Path, reading: Reading, sample: Sample | None = None
) -> None:
    """Fill the caches of several splits, one after the other.

    Raises:
        KnotsError: some could not be filled; the message names each. The others are filled all the same.
    """
    failures = []
    for task, split in tasks:
        try:
            load_split(task, split, cache_dir, reading, sample)
        except KnotsError as error:
            failures.append(str(error))
    if failures:
        ready = len(tasks) - len(failures)
        others = "other task" if ready == 1 else f"other {ready} tasks"
        kept = f" (the data of the {others} is ready and kept)" if ready else ""
        raise KnotsError("; ".join(dict.fromkeys(failures)) + kept)


def source_identity(task: ImageTask, split: str, cache_dir: Path, reading: Reading) -> dict[str, Any]:
    """What determines the items of a split, as plain values: content, not where it lies."""
    source = _source(task)
    transform = _effective(source, reading).transform
    return {
        "source": dict(source.identity(task, split, cache_dir)),
        "transform": None if transform is None else transform.identity,
        "layout": LAYOUT_VERSION,
    }


def _source(task: ImageTask) -> Source:
    kind = str(task.source["kind"])
    if kind not in SOURCES:
        raise unknown(f"kind of source of task {task.name!r}:", kind, SOURCES)
    for option in task.source:
        if option not in ("kind", *SOURCES[kind].options):
            known = ("kind", *SOURCES[kind].options)
            raise unknown(f"key of the source of task {task.name!r}:", option, known)
    return SOURCES[kind]


def _effective(source: Source, reading: Reading) -> Reading:
    """Without a transform where pictures are drawn at the size that it would give them."""
    if reading.transform is not None and source.size == reading.transform.size:
        return replace(reading, transform=None)
    return reading


def _key(task: ImageTask, split: str, root: Path, reading: Reading, sample: Sample | None) -> str:
    """A readable name and a hash of everything that the items depend on."""
    content = {
        "task": task.name,
        "split": split,
        "size": task.size(split),
        "classes": task.classes,
        "sample": None if sample is None else [sample.count, sample.seed],
        **source_identity(task, split, root, reading),
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    return f"{task.name}-{split}-{digest[:16]}"


def _chosen(n: int, sample: Sample | None) -> npt.NDArray[np.int64]:
    if sample is None or sample.count >= n:
        return np.arange(n, dtype=np.int64)
    return np.sort(np.random.default_rng(sample.seed).permutation(n)[: sample.count])


def _pieces(
    items: Items, chosen: npt.NDArray[np.int64]
) -> Iterator[tuple[list[Pixels | Broken], Sequence[int]]]:
    for at in range(0, len(chosen), PIECE):
        numbers = chosen[at : at + PIECE].tolist()
        yield items.read(numbers), items.labels[numbers].tolist()


def _check(items: Items, task: ImageTask, split: str) -> None:
    where = f"the {split} split of task {task.name!r}"
    labels = items.labels
    if not items.count == len(labels) == task.size(split):
        raise KnotsError(
            f"{where} has {items.count} images and {len(labels)} labels, "
            f"but its `sizes` promise {task.size(split)}"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(task.classes)):
        raise KnotsError(
            f"{where} has labels from {labels.min()} to {labels.max()}, "
            f"but the task has {len(task.classes)} classes"
        )


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
