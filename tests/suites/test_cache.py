"""Pictures on disk: streamed, checked byte by byte, mapped."""

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knots.errors import KnotsError
from knots.suites import cache
from knots.suites.cache import PIECE, Broken, ImageArrays, Pixels, read_cached, write_cached

REPOSITORY = Path(__file__).resolve().parents[2]
Pieces = Iterator[tuple[list[Pixels | Broken], Sequence[int]]]


def pictures(n: int, side: int = 2) -> Pixels:
    return np.random.default_rng(n).integers(0, 256, size=(n, side, side, 3), dtype=np.uint8)


def in_pieces(images: Sequence[Pixels | Broken], labels: Sequence[int], size: int = PIECE) -> Pieces:
    for at in range(0, len(labels), size):
        yield list(images[at : at + size]), list(labels[at : at + size])


def written(folder: Path, n: int = 21, size: int = PIECE) -> Pixels:
    images = pictures(n)
    write_cached(folder, (2, 2, 3), in_pieces(list(images), range(n), size))
    return images


def read(folder: Path) -> ImageArrays:
    arrays = read_cached(folder)
    assert arrays is not None
    return arrays


@given(n=st.integers(0, 2000), broken=st.sets(st.integers(0, 1999), max_size=40), size=st.integers(1, PIECE))
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_for_any_number_of_pictures(n: int, broken: set[int], size: int):
    broken = {number for number in broken if number < n}
    images = pictures(n, 1)
    mixed = [Broken(f"item {i}", "bad") if i in broken else images[i] for i in range(n)]
    kept = [i for i in range(n) if i not in broken]
    with TemporaryDirectory() as folder:
        write_cached(Path(folder), (1, 1, 3), in_pieces(mixed, range(n), size))
        arrays = read(Path(folder))
        np.testing.assert_array_equal(arrays.images, images[kept])
        assert arrays.labels.tolist() == kept
        assert arrays.broken == tuple(f"item {i} (bad)" for i in sorted(broken))
        # Any program that knows NumPy's files reads them.
        np.testing.assert_array_equal(np.load(Path(folder, "images.npy")), images[kept])
        np.testing.assert_array_equal(np.load(Path(folder, "labels.npy")), kept)
        assert len(arrays) == len(kept)


@pytest.mark.parametrize("n", [0, 1, 9, 10, 99999, 10**8])
def test_the_header_has_one_length(n: int):
    assert len(cache._header((n, 336, 336, 3), "|u1")) == len(cache._header((0, 336, 336, 3), "|u1"))
    assert len(cache._header((n,), "<i8")) % 64 == 0


def test_arrays_are_mapped_and_read_only(tmp_path: Path):
    written(tmp_path)
    arrays = read(tmp_path)
    assert isinstance(arrays.images, np.memmap)
    assert (arrays.images.dtype, arrays.labels.dtype) == (np.uint8, np.int64)
    with pytest.raises(ValueError, match="read-only"):
        arrays.images[0] = 0


def test_no_more_than_a_piece_is_held(tmp_path: Path):
    side, count = 64, 12
    piece = PIECE * side * side * 3

    def pieces() -> Pieces:
        for number in range(count):
            yield [np.full((side, side, 3), number, np.uint8) for _ in range(PIECE)], [number] * PIECE

    tracemalloc.start()
    write_cached(tmp_path, (side, side, 3), pieces())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * piece
    assert (read(tmp_path).images[:: PIECE * 2, 0, 0, 0] == range(0, count, 2)).all()


@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
def test_a_changed_byte_anywhere_is_found(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    written(tmp_path, size=4)
    file = tmp_path / name
    content = file.read_bytes()
    for place in range(len(content)):
        for change in (1, 0x9C):
            cache._checked.clear()
            file.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
            assert read_cached(tmp_path) is None, f"byte {place}"
    file.write_bytes(content)
    assert len(read(tmp_path)) == 21
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
@pytest.mark.parametrize("length", [-1, 1, 40, 0])
def test_another_length_is_found(name: str, length: int, tmp_path: Path):
    written(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content + b"\0" if length == 1 else content[:length])
    assert read_cached(tmp_path) is None


MANIFESTS = [
    *(b"", b"{", b"null", b"[]", b"7", b"\xff\xfe", b'{"images": 3}'),
    b'{"images": {"shape": [2], "crc32": []}, "labels": {}, "broken": []}',
]


@pytest.mark.parametrize("content", MANIFESTS)
def test_a_damaged_manifest_is_found(content: bytes, tmp_path: Path):
    written(tmp_path)
    (tmp_path / "manifest.json").write_bytes(content)
    assert read_cached(tmp_path) is None


@pytest.mark.parametrize(
    ("key", "name", "value"),
    [
        ("images", "shape", [20, 2, 2, 3]),
        ("images", "shape", [21, 2, 2, -3]),
        ("images", "shape", None),
        ("images", "crc32", []),
        ("images", "crc32", [[252, 0]]),
        ("images", "crc32", [[251, 0], [1, 0]]),
        ("images", "crc32", [252]),
        ("labels", "shape", [20]),
        ("labels", "crc32", 0),
    ],
)
def test_a_manifest_of_something_else_is_found(key: str, name: str, value: object, tmp_path: Path):
    written(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    manifest[key][name] = value
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert read_cached(tmp_path) is None


def test_a_file_is_checked_once_and_again_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written(tmp_path, size=5)
    calls = []
    whole = cache.zlib.crc32

    class Counting:
        @staticmethod
        def crc32(content: bytes) -> int:
            calls.append(len(content))
            return whole(content)

    monkeypatch.setattr(cache, "zlib", Counting)
    read(tmp_path)
    assert sorted(calls) == sorted([60, 60, 60, 60, 12, 21 * 8])
    calls.clear()
    read(tmp_path)
    assert calls == [21 * 8]
    file = tmp_path / "images.npy"
    content, before = file.read_bytes(), file.stat()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert file.stat().st_size == before.st_size
    assert read_cached(tmp_path) is None
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert len(read(tmp_path)) == 21


def test_absent_files_are_no_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert read_cached(tmp_path / "absent") is None
    for name in ("manifest.json", "images.npy", "labels.npy"):
        written(tmp_path)
        (tmp_path / name).unlink()
        assert read_cached(tmp_path) is None
    assert caplog.text == ""


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 3, 3), np.uint8), np.zeros((2, 2, 3)), np.zeros(12, np.uint8)]
)
def test_a_picture_of_another_shape_is_refused(wrong: np.ndarray, tmp_path: Path):
    with pytest.raises(KnotsError, match=r"not uint8 \(2, 2, 3\)"):
        write_cached(tmp_path, (2, 2, 3), iter([([wrong], [0])]))
    assert read_cached(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_writing_again_does_not_disturb_who_reads(tmp_path: Path):
    images = written(tmp_path)
    first = read(tmp_path)
    written(tmp_path)
    np.testing.assert_array_equal(first.images, images)
    np.testing.assert_array_equal(read(tmp_path).images, images)


KILLED = """
import os, signal, sys
from pathlib import Path
from types import ModuleType

for name in ("knots", "knots.suites"):  # without what their __init__ imports, which takes seconds
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [name.replace(".", "/")]

import numpy as np
from knots.suites.cache import write_cached

left = int(sys.argv[2])  # files that are still renamed before the end comes
rename = Path.replace

def replace(self, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return rename(self, target)

Path.replace = replace
picture = np.ones((2, 2, 3), np.uint8)
write_cached(Path(sys.argv[1]), (2, 2, 3), iter([([picture] * 9, range(9))]))
"""


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_who_is_killed_leaves_nothing_that_looks_finished(renamed: int, tmp_path: Path):
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(renamed)]
    assert subprocess.run(command, cwd=REPOSITORY, timeout=60).returncode == -signal.SIGKILL
    assert len([path for path in tmp_path.iterdir() if path.suffix != ".tmp"]) == renamed
    assert read_cached(tmp_path) is None
    images = written(tmp_path)
    np.testing.assert_array_equal(read(tmp_path).images, images)
