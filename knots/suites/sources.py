"""Kinds of sources of pictures: where those of a task can come from.

To add one: a function that opens a split, what its items depend on, and a row in `IMAGE_SOURCES`.

Shapes: N items, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from knots.errors import KnotsError, first_line, unknown
from knots.suites import images, miniature
from knots.suites.cache import Broken, ImageArrays, Pixels
from knots.suites.miniature.canvas import SIZE
from knots.suites.splits import choose, held_out_identity, split_in_data
from knots.suites.tasks import ImageTask
from knots.suites.transforms import KINDS, Transform


@dataclass(frozen=True)
class DataOptions:
    """What a user may choose about reading pictures.

    Attributes:
        transform: a kind of `Transform`, "clip" or "open_clip".
        skip_broken: leave out pictures that cannot be decoded, in place of refusing the split.
        workers: threads that decode; None is one a core.
    """

    transform: str = "clip"
    skip_broken: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.transform not in KINDS:
            raise unknown("data.transform", str(self.transform), KINDS)
        if not isinstance(self.skip_broken, bool):
            raise KnotsError(f"data.skip_broken={self.skip_broken!r}; true or false is needed")
        if self.workers is not None and (type(self.workers) is not int or self.workers < 1):
            raise KnotsError(
                f"data.workers={self.workers!r}; a whole number of 1 or more, or null, is needed"
            )


@dataclass(frozen=True)
class Reading:
    """How pictures are read.

    Attributes:
        transform: from any picture to what the model takes; None takes pictures as they are.
        skip_broken: leave out pictures that cannot be decoded, in place of refusing the split.
        workers: threads that decode.
    """

    transform: Transform | None = None
    skip_broken: bool = False
    workers: int = 1


@dataclass(frozen=True, eq=False)
class Items:
    """An opened split, before anything of it is decoded.

    Attributes:
        labels: int64 [N], the task's own labels.
        count: N, the number of pictures.
        shape: (H, W, 3) of the pictures that `read` gives.
        read: numbers of items -> their pictures, in that order.
    """

    labels: npt.NDArray[np.int64]
    count: int
    shape: tuple[int, int, int]
    read: Callable[[Sequence[int]], list[Pixels | Broken]]


@dataclass(frozen=True)
class Source:
    """A kind of source.

    Attributes:
        open: (task, split, reading, root of the caches) -> the items, while the block runs.
        identity: (task, split, root of the caches) -> what determines the items, as plain values.
        options: the keys that `task.source` may have beside `kind`.
        size: side of the pictures where all of them are squares of one size; None where they are of any size.
    """

    open: Callable[[ImageTask, str, Reading, Path], AbstractContextManager[Items]]
    identity: Callable[[ImageTask, str, Path], Mapping[str, Any]]
    options: tuple[str, ...]
    size: int | None = None


def drawn(
    load: Callable[[ImageTask, str], ImageArrays], version: int, options: tuple[str, ...], size: int
) -> Source:
    """A source whose items are made in memory, all at once.

    Args:
        load: (task, split) -> the items.
        version: changes whenever `load` gives other items for the same task.
        options: the keys of `task.source`.
        size: side of its pictures.
    """

    @contextmanager
    def open_(task: ImageTask, split: str, reading: Reading, _: Path) -> Iterator[Items]:
        arrays, transform = load(task, split), reading.transform
        pictures = arrays.images
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
            raise KnotsError(
                f"the {split} split of task {task.name!r} has images of {pictures.dtype} {pictures.shape}, "
                "not uint8 [N, H, W, 3]"
            )

        def read(items: Sequence[int]) -> list[Pixels | Broken]:
            if transform is None:
                return list(pictures[list(items)])
            return [transform(Image.fromarray(pictures[item])) for item in items]

        height, width = pictures.shape[1:3] if transform is None else (transform.size, transform.size)
        yield Items(arrays.labels, len(pictures), (height, width, 3), read)

    def identity(task: ImageTask, split: str, _: Path) -> Mapping[str, Any]:
        del split
        return {**task.source, "version": version}

    return Source(open_, identity, options, size)


def _draw_miniature(task: ImageTask, split: str) -> ImageArrays:
    seed = int(task.source.get("seed", 0))
    return ImageArrays(*miniature.draw_split(task.name, split, task.size(split), seed))


@contextmanager
def _open_images(task: ImageTask, split: str, reading: Reading, root: Path) -> Iterator[Items]:
    """Pictures of a data set, decoded on several threads, which Pillow lets run side by side."""
    if reading.transform is None:
        raise KnotsError(f"task {task.name!r}: pictures of any size need a transform to a model's size")
    name = split_in_data(task, split)
    listing = images.list_split(task.source, name, root, images.FORMS)
    with (
        images.open_rows(task, listing, name, root) as rows,
        ThreadPoolExecutor(max(1, reading.workers)) as pool,
    ):
        chosen = choose(task, split, rows.labels, root)
        decode = partial(_decoded, transform=reading.transform)

        def read(items: Sequence[int]) -> list[Pixels | Broken]:
            numbers = chosen[list(items)].tolist()
            names = [f"item {number} of {name!r}" for number in numbers]
            return list(pool.map(decode, rows.raw(numbers), names))

        side = reading.transform.size
        yield Items(rows.labels[chosen], len(chosen), (side, side, 3), read)


def _decoded(raw: Mapping[str, Any], name: str, transform: Transform) -> Pixels | Broken:
    try:
        return transform(images.decode(raw))
    except Exception as error:  # a damaged file makes decoders stumble in any way
        if _of_the_machine(error):
            raise
        label = f"{name}, {Path(raw['path']).name}" if raw.get("path") else name
        return Broken(label, first_line(error))


def _of_the_machine(error: Exception) -> bool:
    """Whether this is no fault of the picture, which then must not be remembered as broken."""
    if isinstance(error, FileNotFoundError):
        return False
    return isinstance(error, MemoryError | Warning) or (
        isinstance(error, OSError) and error.errno is not None
    )


def _images_identity(task: ImageTask, split: str, root: Path) -> Mapping[str, Any]:
    name = split_in_data(task, split)
    return {
        "content": images.content_of(images.list_split(task.source, name, root, images.FORMS), root),
        "config": task.source.get("config"),
        "columns": [task.source.get(key, key) for key in ("image", "label")],
        "split": name,
        "held_out": held_out_identity(task, split, root),
    }


IMAGE_SOURCES: Mapping[str, Source] = {
    "miniature": drawn(_draw_miniature, miniature.VERSION, ("seed",), SIZE),
    "images": Source(
        _open_images,
        _images_identity,
        options=("path", "revision", "config", "image", "label", "splits", "validation"),
    ),
}
"""Every kind of source of pictures."""
