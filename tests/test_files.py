"""A name stands for the whole file, whoever is killed and whoever writes beside us."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from knots import files
from knots.files import LEFT_OVER_SECONDS, remove_leftovers, whole_file, whole_folder, write_whole

REPOSITORY = Path(__file__).resolve().parents[1]


def test_the_name_appears_when_the_block_ends(tmp_path: Path):
    path = tmp_path / "some" / "folders" / "x.bin"
    with whole_file(path) as file:
        file.write(b"hello world")
        file.seek(0)
        assert file.read(5) == b"hello"  # written and read again
        file.seek(0)
        file.write(b"HELLO")
        assert not path.exists()
    assert path.read_bytes() == b"HELLO world"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "x.bin"
    write_whole(path, b"old")

    def fail() -> None:
        with whole_file(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "x.bin"
    write_whole(path, b"old")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_keeps_what_it_opened(tmp_path: Path):
    path = tmp_path / "x.bin"
    write_whole(path, b"old")
    with path.open("rb") as reader:
        write_whole(path, b"new and longer")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new and longer"


def test_others_may_read_it_as_far_as_the_umask_lets_them(tmp_path: Path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "x.bin", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "x.bin").stat().st_mode & 0o777 == 0o640


def test_of_several_writers_one_wins(tmp_path: Path):
    path = tmp_path / "x.bin"
    contents = [bytes([number]) * 100_000 for number in range(8)]
    seen: set[bytes] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            if path.exists():
                seen.add(path.read_bytes())

    def write(content: bytes) -> None:
        for _ in range(5):
            write_whole(path, content)

    watcher = threading.Thread(target=watch)
    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in (watcher, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    watcher.join()
    assert {*seen, path.read_bytes()} <= set(contents)
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, runpy, signal, sys
from pathlib import Path
whole_file = runpy.run_path("knots/files.py")["whole_file"]
with whole_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "x.bin"
    write_whole(path, b"old")
    process = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=REPOSITORY, timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    (left,) = set(tmp_path.iterdir()) - {path}
    assert left.name.startswith(".x.bin.")  # and is never mistaken for it
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_only_old_leftovers_are_removed(tmp_path: Path):
    old = time.time() - LEFT_OVER_SECONDS - 60
    (tmp_path / ".folder.tmp").mkdir()
    (tmp_path / ".folder.tmp" / "inside").write_text("x")
    for name in (".old.tmp", ".young.tmp", "other"):
        (tmp_path / name).write_text("x")
    for name in (".folder.tmp", ".old.tmp", "other"):
        os.utime(tmp_path / name, (old, old))
    remove_leftovers(tmp_path, ".*.tmp")
    assert {path.name for path in tmp_path.iterdir()} == {".young.tmp", "other"}
    remove_leftovers(tmp_path / "absent", "*")


def test_a_folder_appears_only_when_it_is_whole(tmp_path):
    folder = tmp_path / "deep" / "base"
    with pytest.raises(FileNotFoundError), whole_folder(folder) as unfinished:
        (unfinished / "half").write_text((unfinished / "missing").read_text())
    assert not folder.exists()
    assert list(folder.parent.iterdir()) == []


def test_a_whole_folder_replaces_an_older_one_and_a_failure_keeps_it(tmp_path):
    folder = tmp_path / "base"
    for text in ("old", "new"):
        with whole_folder(folder) as unfinished:
            (unfinished / text).touch()
    assert [path.name for path in folder.iterdir()] == ["new"]
    with pytest.raises(RuntimeError), whole_folder(folder):
        raise RuntimeError
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]
