"""The items of a split, one way in for pictures and sentences: made once, cached on disk, read from there.

A cached split is a folder named after everything that determines its content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from knots.errors import KnotsError, unknown
from knots.suites.cache import ImageArrays
from knots.suites.image_data import cached_images, image_identity, load_images
from knots.suites.keys import Sample
from knots.suites.sources import IMAGE_SOURCES, DataOptions, Reading, Source
from knots.suites.tasks import ImageTask, Task, TextTask
from knots.suites.text_data import cached_texts, load_texts, text_identity
from knots.suites.text_sources import TEXT_SOURCES, TextSource
from knots.suites.texts import TextArrays, TextReading

__all__ = [
    "DataOptions",
    "ImageArrays",
    "Reading",
    "Sample",
    "TextArrays",
    "TextReading",
    "cached_split",
    "load_split",
    "prepare",
    "source_identity",
]

SOURCES: Mapping[str, Source | TextSource] = {**IMAGE_SOURCES, **TEXT_SOURCES}
"""Every kind of source."""

Kind = TypeVar("Kind", bound=Source | TextSource)


@overload
def load_split(
    task: ImageTask,
    split: str,
    cache_dir: str | Path,
    reading: Reading | None = None,
    sample: Sample | None = None,
) -> ImageArrays: ...
@overload
def load_split(
    task: TextTask, split: str, cache_dir: str | Path, reading: TextReading, sample: Sample | None = None
) -> TextArrays: ...
@overload
def load_split(
    task: Task,
    split: str,
    cache_dir: str | Path,
    reading: Reading | TextReading | None = None,
    sample: Sample | None = None,
) -> ImageArrays | TextArrays: ...
def load_split(
    task: Task,
    split: str,
    cache_dir: str | Path,
    reading: Reading | TextReading | None = None,
    sample: Sample | None = None,
) -> ImageArrays | TextArrays:
    """The items of a split, from the cache where they are there already.

    Safe under several processes at once; a damaged or unfinished cache is built again.

    Args:
        task: the task, with the number of items that each split must have.
        split: train, validation or test.
        cache_dir: the root of the caches; the split goes below `<cache_dir>/data`.
        reading: how pictures are transformed, where None takes them as they are, or how sentences are
            tokenized.
        sample: only some of the items, which alone are then decoded or tokenized.

    Raises:
        KnotsError: the task has no such split, its source is unknown or cannot be had, the source does not
            give the number of items or the labels that the task promises, pictures are broken and are not to
            be skipped, or sentences are absent.
        TypeError: the reading is that of another modality.
    """
    root = Path(cache_dir).expanduser()
    task.size(split)  # before its source is asked, for a split that the task does not have
    if isinstance(task, TextTask):
        source = _source(task, TextSource)
        return load_texts(task, split, root, source, _for_texts(task, reading), sample)
    task, reading = _for_images(task, reading)
    return load_images(task, split, root, _source(task, Source), reading, sample)


def cached_split(
    task: Task,
    split: str,
    cache_dir: str | Path,
    reading: Reading | TextReading | None = None,
    sample: Sample | None = None,
) -> Path | None:
    """The folder of a split that `load_split` would read from the cache; nothing is built.

    Args:
        task: as of `load_split`, like the other arguments.
        split: train, validation or test.
        cache_dir: the root of the caches.
        reading: how items become what a model takes.
        sample: only some of the items.

    Returns:
        None where it is not there, or is not what its checksums say.

    Raises:
        KnotsError: the task has no such split, or its source cannot be had or is unknown.
    """
    root = Path(cache_dir).expanduser()
    task.size(split)
    if isinstance(task, TextTask):
        source = _source(task, TextSource)
        return cached_texts(task, split, root, source, _for_texts(task, reading), sample)
    task, reading = _for_images(task, reading)
    return cached_images(task, split, root, _source(task, Source), reading, sample)


def prepare(
    tasks: Sequence[tuple[Task, str]],
    cache_dir: Path,
    reading: Reading | TextReading,
    sample: Sample | None = None,
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


def source_identity(
    task: Task, split: str, cache_dir: Path, reading: Reading | TextReading
) -> dict[str, Any]:
    """What determines the items of a split, as plain values: content, not where it lies."""
    if isinstance(task, TextTask):
        return text_identity(task, split, cache_dir, _source(task, TextSource), _for_texts(task, reading))
    task, reading = _for_images(task, reading)
    return image_identity(task, split, cache_dir, _source(task, Source), reading)


def _for_texts(task: TextTask, reading: Reading | TextReading | None) -> TextReading:
    if not isinstance(reading, TextReading):
        raise TypeError(f"task {task.name!r} is of sentences: it needs a TextReading, not {reading!r}")
    return reading


def _for_images(task: Task, reading: Reading | TextReading | None) -> tuple[ImageTask, Reading]:
    reading = reading or Reading()
    if not isinstance(task, ImageTask) or not isinstance(reading, Reading):
        raise TypeError(
            f"task {task.name!r} is of images: it needs a Reading, not a {type(reading).__name__}"
        )
    return task, reading


def _source(task: Task, modality: type[Kind]) -> Kind:
    """The kind of source that the task names, among those of its modality."""
    name = str(task.source["kind"])
    fitting = {key: source for key, source in SOURCES.items() if isinstance(source, modality)}
    if name not in fitting:
        raise unknown(f"kind of source of task {task.name!r}:", name, fitting)
    for option in task.source:
        if option not in ("kind", *fitting[name].options):
            known = ("kind", *fitting[name].options)
            raise unknown(f"key of the source of task {task.name!r}:", option, known)
    return fitting[name]
