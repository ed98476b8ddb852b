"""Files and folders whose names only ever stand for the whole of them, whoever is killed meanwhile."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

LEFT_OVER_SECONDS = 24 * 3600
"""Temporary files and folders of this age belong to nobody who is still at work."""


@contextmanager
def whole_file(path: Path) -> Iterator[IO[Any]]:
    """A binary file to write and read, which takes the name `path` when the block ends well.

    A file of that name is replaced then, and not before; missing folders are made. Whoever has the old one
    open keeps it. Safe under several writers: the last one wins.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file by `whole_file`."""
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to write into, which takes the name `folder` when the block ends well.

    A folder of that name is replaced then, and is still there after an exception or a kill; missing folders
    above it are made.

    Raises:
        OSError: the folder cannot be written; nothing is left behind.
    """
    draft = folder.with_name(f".{folder.name}.{uuid4().hex}.part")
    try:
        draft.mkdir(parents=True)
        yield draft
        _replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _replace(draft: Path, folder: Path) -> None:
    if not (folder.is_dir() and any(folder.iterdir())):
        draft.replace(folder)  # an empty folder gives way
        return
    old = draft.with_suffix(".old")
    folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Delete the temporary files and folders of those who were killed, which may be large.

    Args:
        folder: where they lie.
        pattern: a glob pattern of their names; what is younger than a day is kept.
    """
    for path in folder.glob(pattern):
        try:
            if time.time() - path.stat().st_mtime < LEFT_OVER_SECONDS:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        except OSError:  # another process was faster, or it is not ours
            continue
