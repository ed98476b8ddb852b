"""Pictures on disk: written as a stream, checked once a process, mapped into memory.

Shapes: N items, H height, W width.
"""

from __future__ import annotations

import io
import json
import logging
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from knots.errors import KnotsError
from knots.files import remove_leftovers, whole_file, write_whole

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PIECE = 512
"""Pictures that are decoded, written and checked together."""

Pixels = npt.NDArray[np.uint8]

_checked: set[tuple[str, int, int]] = set()
"""Files whose content this process has checked, by path, size and time of change."""


@dataclass(frozen=True, eq=False)
class ImageArrays:
    """The items of one split, in their own order.

    Attributes:
        images: uint8 [N, H, W, 3], RGB; read-only and mapped from disk.
        labels: int64 [N], the task's own labels.
        broken: what could not be decoded and is left out: a name and a reason each.
    """

    images: Pixels
    labels: npt.NDArray[np.int64]
    broken: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of items N."""
        return len(self.labels)


@dataclass(frozen=True)
class Broken:
    """A picture that could not be decoded, and why."""

    name: str
    reason: str


def write_cached(
    folder: Path, shape: tuple[int, int, int], pieces: Iterable[tuple[list[Pixels | Broken], Sequence[int]]]
) -> None:
    """Write pictures and labels as they come; no more than one piece of them is held.

    Args:
        folder: of the split.
        shape: (H, W, 3) of every picture.
        pieces: pictures with their labels, at most `PIECE` at a time.

    Raises:
        KnotsError: a picture has another shape or is not uint8.
    """
    labels: list[int] = []
    broken: list[str] = []
    checksums = []
    with whole_file(folder / "images.npy") as file:
        start = file.write(_header((0, *shape), "|u1"))
        for pictures, theirs in pieces:
            length, checksum = 0, 0
            for picture, label in zip(pictures, theirs, strict=True):
                if isinstance(picture, Broken):
                    broken.append(f"{picture.name} ({picture.reason})")
                    continue
                content = _bytes(picture, shape)
                length, checksum = length + file.write(content), zlib.crc32(content, checksum)
                labels.append(int(label))
            if length:
                checksums.append([length, checksum])
            del pictures  # before the next ones are made
        file.seek(0)
        assert file.write(_header((len(labels), *shape), "|u1")) == start
    numbers = np.array(labels, dtype="<i8").tobytes()
    write_whole(folder / "labels.npy", _header((len(labels),), "<i8") + numbers)
    manifest = {
        "images": {"shape": [len(labels), *shape], "crc32": checksums},
        "labels": {"shape": [len(labels)], "crc32": zlib.crc32(numbers)},
        "broken": broken,
    }
    write_whole(folder / MANIFEST, json.dumps(manifest).encode())
    remove_leftovers(folder, ".*.tmp")


def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    """The header of a .npy file; its length does not depend on N, for which NumPy leaves room."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def _bytes(picture: Pixels, shape: tuple[int, int, int]) -> bytes:
    if picture.dtype != np.uint8 or picture.shape != shape:
        raise KnotsError(f"a picture is {picture.dtype} {picture.shape}, not uint8 {shape}")
    return picture.tobytes()


def read_cached(folder: Path) -> ImageArrays | None:
    """The cached arrays, or None where they are absent or not what the manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        images = _mapped(folder / "images.npy", tuple(manifest["images"]["shape"]), "|u1")
        labels = _mapped(folder / "labels.npy", tuple(manifest["labels"]["shape"]), "<i8")
        if zlib.crc32(np.asarray(labels).tobytes()) != manifest["labels"]["crc32"]:
            raise ValueError("labels.npy is not what was written")
        _check_once(folder / "images.npy", images, manifest["images"]["crc32"])
        return ImageArrays(images, labels, tuple(manifest["broken"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        log.warning("the cache in %s is damaged (%s) and is built again", folder, error)
        return None


def _mapped(file: Path, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """The array in a .npy file, mapped into memory.

    Raises:
        ValueError: its header or its length is not what this shape and type make.
    """
    header = _header(shape, dtype)
    with file.open("rb") as content:
        found = content.read(len(header))
    length = len(header) + math.prod(shape) * np.dtype(dtype).itemsize
    if found != header or file.stat().st_size != length:
        raise ValueError(f"{file.name} is not what was written")
    return np.memmap(file, dtype, mode="r", offset=len(header), shape=shape)


def _check_once(file: Path, images: Pixels, checksums: Sequence[Sequence[int]]) -> None:
    """Compare a file with its checksums, piece by piece on several threads; once a process.

    Raises:
        ValueError: they differ.
    """
    state = file.stat()
    key = (str(file.resolve()), state.st_size, state.st_mtime_ns)
    if key in _checked:
        return
    with ThreadPoolExecutor() as pool:
        # zlib lets other threads run while it reads.
        found = list(pool.map(zlib.crc32, _pieces(images, [length for length, _ in checksums])))
    if found != [value for _, value in checksums]:
        raise ValueError("images.npy is not what was written")
    _checked.add(key)


def _pieces(images: Pixels, lengths: Sequence[int]) -> Iterator[Pixels]:
    flat, start = images.reshape(-1), 0
    for length in lengths:
        yield flat[start : start + length]
        start += length
    if start != len(flat):
        raise ValueError("images.npy is longer than what was written")
