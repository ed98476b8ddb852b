"""Reads what W&B wrote down of an offline run: its `.wandb` file, a log in LevelDB's format of records."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32 * 1024
FILE_HEADER = 7
PATIENCE = 30.0
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """What one run logged."""

    folder: Path
    name: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)

    @property
    def numbers(self) -> dict[str, float]:
        """The last value of every number."""
        rows = [{key: v for key, v in row.items() if isinstance(v, int | float)} for row in self.history]
        return {key: value for row in rows for key, value in row.items() if not key.startswith("_")}

    def table(self, key: str) -> dict[str, Any]:
        """A logged table, with its `columns` and `data`."""
        return json.loads((self.folder / "files" / self._media(key)["path"]).read_text())

    def images(self, key: str) -> list[Path]:
        """The files of a logged image."""
        return [self.folder / "files" / name for name in self._media(key)["filenames"]]

    def _media(self, key: str) -> dict[str, Any]:
        (media,) = [row[key] for row in self.history if isinstance(row.get(key), dict)]
        return media


@dataclass(frozen=True)
class Artifact:
    """A logged artifact; `files` are by their names in it, and where they lie on disk."""

    name: str
    type: str
    metadata: dict[str, Any]
    files: dict[str, Path]


def offline_runs(output_dir: Path) -> list[OfflineRun]:
    """Every offline run below `output_dir`, in the order in which they were logged."""
    read = [_read(path.parent) for path in (output_dir / "wandb").glob("offline-run-*/*.wandb")]
    return [run for _, run in sorted(read, key=lambda pair: pair[0])]


def _read(folder: Path) -> tuple[float, OfflineRun]:
    run, started = OfflineRun(folder), 0.0
    for record in _whole(folder):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.name, run.tags = record.run.display_name, list(record.run.tags)
            run.group, run.job_type = record.run.run_group, record.run.job_type
            started = record.run.start_time.ToMicroseconds()
            run.config |= _values(record.run.config.update)
        elif kind == "config":
            run.config |= _values(record.config.update)
        elif kind == "history":
            run.history.append(_values(record.history.item))
        elif kind == "artifact":
            run.artifacts.append(_artifact(record.artifact))
    return started, run


def _whole(folder: Path) -> list[Record]:
    """All records. W&B's own process may still be writing the last ones when the run has ended for ours."""
    (path,) = folder.glob("*.wandb")
    deadline = time.monotonic() + PATIENCE
    while True:
        records = [Record.FromString(data) for data in _records(path.read_bytes()[FILE_HEADER:])]
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        assert time.monotonic() < deadline, f"{path} has no end"
        time.sleep(0.02)


def _artifact(record: Any) -> Artifact:
    files = {entry.path: Path(entry.local_path) for entry in record.manifest.contents}
    return Artifact(record.name, record.type, json.loads(record.metadata or "{}"), files)


def _values(items: Any) -> dict[str, Any]:
    """Nested as they were logged; a name like `per_task/digits/accuracy` is one key."""
    values: dict[str, Any] = {}
    for item in items:
        *parents, last = item.nested_key or [item.key]
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = json.loads(item.value_json)
    return values


def _records(data: bytes) -> Iterator[bytes]:
    """The whole records of a log without its file header; blocks count that header in."""
    position, parts = 0, b""
    while position + 7 <= len(data):
        left = BLOCK - (position + FILE_HEADER) % BLOCK
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        if position + 7 + length > len(data):
            return
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (FULL, LAST):
            yield parts
            parts = b""
