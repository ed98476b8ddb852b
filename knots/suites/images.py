"""Tasks whose pictures lie on the Hugging Face hub or in a folder, read with `datasets`.

A folder may hold parquet files or one folder of pictures a class, or be a copy of a hub repository. What
tells one data set from another is the commit for a hub id, and the files' content for a folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from knots import hub
from knots.errors import KnotsError, unknown
from knots.files import write_whole
from knots.suites.tasks import ImageTask

log = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")
REMOTE = re.compile(r"hf://datasets/[^@]+@(?P<commit>[^/]+)/(?P<name>.+)")


@dataclass(frozen=True)
class Listing:
    """The files behind one split of a data set.

    Attributes:
        path: the folder or hub id.
        builder: the module of `datasets` that reads them, "parquet" or "imagefolder".
        files: split -> names of files, relative to the folder; only the one split where its files alone do.
        commit: of a hub id; None for a folder.
    """

    path: str
    builder: str
    files: Mapping[str, tuple[str, ...]]
    commit: str | None

    def fetch(self) -> dict[str, list[str]]:
        """Split -> paths on this machine; downloads what is on the hub and not yet here."""
        folder = Path(self.path).expanduser()
        if self.commit is not None:
            names = [name for names in self.files.values() for name in names]
            folder = hub.snapshot(self.path, names, kind="dataset", revision=self.commit)
            absent = [name for name in names if not (folder / name).is_file()]
            if absent:
                raise KnotsError(
                    f"data set {self.path!r}: {len(absent)} of {len(names)} files are not in the local "
                    f"cache, such as {absent[0]!r}, and could not be downloaded; try again with a connection"
                )
        return {split: [str(folder / name) for name in names] for split, names in self.files.items()}


@dataclass(frozen=True, eq=False)
class Rows:
    """The items of one split as they lie in the data set.

    Attributes:
        labels: int64 [N], the task's own labels.
        table: a `datasets.Dataset` whose column of pictures is not decoded.
        column: the name of that column.
    """

    labels: npt.NDArray[np.int64]
    table: Any
    column: str

    def raw(self, items: Sequence[int]) -> list[dict[str, Any]]:
        """Encoded pictures, each with `bytes` or a `path`."""
        return list(self.table[list(items)][self.column])


def list_split(source: Mapping[str, Any], split: str, cache_dir: Path) -> Listing:
    """Find the files of one split.

    What the hub answered is kept below `cache_dir`, so that without a network the same commit is used again.

    Args:
        source: `path`, `revision` and `config` of the data set.
        split: the name of the split in the data set.
        cache_dir: root of the caches.

    Raises:
        KnotsError: the data set or the split is not there, or cannot be reached and was never listed here.
    """
    path, revision = str(source["path"]), source.get("revision")
    if Path(path).expanduser().is_dir():
        return _ask(str(Path(path).expanduser()), None, source.get("config"), split)
    if path.count("/") != 1 or path.startswith((".", "/", "~")):
        raise KnotsError(f"there is no folder {path!r} with data")
    question = json.dumps([path, revision, source.get("config"), split])
    memo = cache_dir / "listings" / f"{hashlib.sha256(question.encode()).hexdigest()[:24]}.json"
    known = _remembered(memo)
    if known is not None and revision is not None and COMMIT.fullmatch(str(revision)):
        return known
    try:
        listing = _ask(path, revision, source.get("config"), split)
    except KnotsError as error:
        if known is None:
            raise
        log.warning("%s; using commit %s, which was listed before", error, known.commit)
        return known
    memo.parent.mkdir(parents=True, exist_ok=True)
    write_whole(memo, json.dumps(vars(listing)).encode())
    return listing


def _remembered(memo: Path) -> Listing | None:
    try:
        values = json.loads(memo.read_text(encoding="utf-8"))
        files = {split: tuple(names) for split, names in values["files"].items()}
        return Listing(values["path"], values["builder"], files, values["commit"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _ask(path: str, revision: str | None, config: str | None, split: str) -> Listing:
    import datasets

    with hub.asking(path, kind="dataset", revision=revision), _about_data(path):
        builder = datasets.load_dataset_builder(path, name=config, revision=revision)
    kind = type(builder).__module__.split(".")[-1]
    found: Mapping[Any, Any] = builder.config.data_files or {}
    names = {str(name): tuple(str(file) for file in files) for name, files in found.items()}
    if split not in names:
        raise unknown(f"split of data set {path!r}:", split, names)
    if kind == "parquet":
        names = {split: names[split]}
    elif kind != "imagefolder":
        raise KnotsError(f"data set {path!r} holds {kind} files; parquet files or folders of images are read")
    matches = {name: [REMOTE.fullmatch(file) for file in files] for name, files in names.items()}
    if all(match for row in matches.values() for match in row):
        commits = {match["commit"] for row in matches.values() for match in row if match}
        files = {name: tuple(match["name"] for match in row if match) for name, row in matches.items()}
        return Listing(path, kind, files, commits.pop())
    folder = Path(path).resolve()
    local = {
        name: tuple(str(Path(file).resolve().relative_to(folder)) for file in files)
        for name, files in names.items()
    }
    return Listing(path, kind, local, None)


@contextmanager
def _about_data(path: str) -> Iterator[None]:
    """Name the data set in complaints of `datasets` about its content."""
    import datasets

    try:
        yield
    except (datasets.exceptions.DatasetsError, FileNotFoundError, ValueError, OSError) as error:
        if isinstance(error, KnotsError) or not Path(path).is_dir():
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise KnotsError(f"data in {path!r} cannot be read: {reason}") from error


def content_of(listing: Listing, cache_dir: Path) -> str:
    """What tells the files of a split from others: the commit and their names, or a hash of their content."""
    digest = hashlib.sha256(json.dumps([listing.builder, listing.commit]).encode())
    hashes = _Hashes(cache_dir / "hashes.json")
    for split, names in sorted(listing.files.items()):
        for name in names:
            content = "" if listing.commit else hashes.of(Path(listing.path) / name)
            digest.update(json.dumps([split, name, content]).encode())
    hashes.keep()
    return digest.hexdigest()


class _Hashes:
    """SHA-256 of files, remembered as long as their size and time of change stay the same."""

    def __init__(self, file: Path) -> None:
        self.file, self.fresh = file, dict[str, str]()
        try:
            self.known: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.known = {}

    def of(self, path: Path) -> str:
        state = path.stat()
        key = json.dumps([str(path), state.st_size, state.st_mtime_ns])
        found = self.known.get(key) or self.fresh.get(key)
        if found is None:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            self.fresh[key] = found
        return found

    def keep(self) -> None:
        if self.fresh:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.file, json.dumps({**self.known, **self.fresh}).encode())


@contextmanager
def open_rows(task: ImageTask, listing: Listing, split: str, cache_dir: Path) -> Iterator[Rows]:
    """The items of one split, while the block runs; the copy that `datasets` makes is deleted afterwards.

    Args:
        task: its `source` names the columns, its classes what labels mean.
        listing: the files.
        split: the name of the split in the data set.
        cache_dir: where the copy goes for the time being.

    Raises:
        KnotsError: a column is not there, or the data set's classes are not the task's.
    """
    import datasets

    where = f"task {task.name!r}: data set {listing.path!r}"
    files = listing.fetch()
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".datasets-", dir=cache_dir) as scratch:
        with hub.asking(listing.path, kind="dataset"), _about_data(listing.path):
            table = datasets.load_dataset(
                listing.builder,
                data_files=files,
                split=split,
                cache_dir=scratch,
                verification_mode="no_checks",
            )
        columns = {key: str(task.source.get(key, key)) for key in ("image", "label")}
        for column in columns.values():
            if column not in table.column_names:
                raise unknown(f"column of {where}:", column, table.column_names)
        labels = _labels(table, columns["label"], task, where)
        yield Rows(
            labels, table.cast_column(columns["image"], datasets.Image(decode=False)), columns["image"]
        )
        del table


def _labels(table: Any, column: str, task: ImageTask, where: str) -> npt.NDArray[np.int64]:
    """The labels as the task counts them: by name where the names are the task's, else by number."""
    values = np.asarray(table.with_format("numpy", columns=[column])[column][:])
    if not np.issubdtype(values.dtype, np.integer):
        raise KnotsError(f"{where} has labels of type {values.dtype} in column {column!r}; integers are read")
    names = getattr(table.features[column], "names", None)
    if names is None:
        return values.astype(np.int64)
    if len(names) != len(task.classes):
        raise KnotsError(f"{where} has {len(names)} classes, the task has {len(task.classes)}")
    if sorted(names) != sorted(task.classes):
        return values.astype(np.int64)
    order = np.array([task.classes.index(name) for name in names], dtype=np.int64)
    return np.where(values >= 0, order[values], values)


def decode(raw: Mapping[str, Any]) -> Image.Image:
    """Decode a picture; whatever is wrong with it raises an exception of Pillow's."""
    content = raw["bytes"]
    picture = Image.open(io.BytesIO(content) if content is not None else raw["path"])
    picture.load()
    return picture
