"""What tests of both kinds of caches do: two processes that build one, and a disk that is full."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from knots import files

REPOSITORY = Path(__file__).resolve().parents[2]


def build_twice_at_once(script: str, cache: Path) -> None:
    """Run a script, which is told the cache, in two processes: they print the same and leave no leftovers."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(cache)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=600) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0] != ""
    assert not list(cache.rglob("*.tmp"))


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """While the block runs no file can be finished, and it must say so."""

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", no_space)
        with pytest.raises(OSError, match="No space left"):
            yield
