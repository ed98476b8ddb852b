"""Files whose names only ever stand for the whole of them, whoever is killed and whoever writes beside us."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4


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
