"""Which files hold a split of a data set, on the Hugging Face hub or in a folder.

`datasets` finds them, by a README's configurations or by their names. What tells one data set from another is
the commit for a hub id, and the files' content for a folder.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from knots import hub
from knots.errors import KnotsError, unknown
from knots.files import write_whole
from knots.suites.hf_datasets import about_config, about_data, no_bars

log = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")
COMMIT_SECONDS = 20
REMOTE = re.compile(r"hf://datasets/[^@]+@(?P<commit>[^/]+)/(?P<name>.+)")

SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Names of folders that `datasets` takes for a split."""

FORMS: Mapping[str, str] = {
    "parquet": "parquet files",
    "json": "JSON lines",
    "csv": "CSV and TSV files",
    "imagefolder": "folders of images",
}
"""Modules of `datasets` that read files here, and how messages call what they read."""

_answers: dict[Path, Listing] = {}
"""What the hub answered, by the file that keeps it. A process asks once: its run ids and its data agree on
the commit, whatever is uploaded meanwhile."""


@dataclass(frozen=True)
class Listing:
    """The files behind one split of a data set.

    Attributes:
        path: the folder or hub id.
        builder: the module of `datasets` that reads them, one of `FORMS`.
        files: split -> names of files, relative to the folder; only the one split where its files alone do.
        commit: of a hub id; None for a folder.
        options: of that module, where files are not as it expects them, such as the separator of a .tsv.
    """

    path: str
    builder: str
    files: Mapping[str, tuple[str, ...]]
    commit: str | None
    options: Mapping[str, Any] = field(default_factory=dict)

    def fetch(self) -> dict[str, list[str]]:
        """Split -> paths on this machine; downloads what is on the hub and not yet here.

        Raises:
            KnotsError: a file cannot be downloaded.
        """
        folder = Path(self.path)
        if self.commit is not None:
            folder = hub.snapshot(self.path, self._patterns(), kind="dataset", revision=self.commit)
            names = [name for names in self.files.values() for name in names]
            absent = [name for name in names if not (folder / name).is_file()]
            if absent:
                raise KnotsError(
                    f"data set {self.path!r}: {len(absent)} of {len(names)} files are not in the local "
                    f"cache, such as {absent[0]!r}, and could not be downloaded; try again with a connection"
                )
        return {split: [str(folder / name) for name in names] for split, names in self.files.items()}

    def _patterns(self) -> list[str]:
        """What to download; of pictures their folders, for every pattern is held against every name."""
        names = [PurePosixPath(name) for names in self.files.values() for name in names]
        if self.builder != "imagefolder":
            return [glob.escape(str(name)) for name in names]
        places = {(glob.escape(str(name.parent)), name.suffix) for name in names}
        return sorted(f"*{suffix}" if parent == "." else f"{parent}/*{suffix}" for parent, suffix in places)


def list_split(
    source: Mapping[str, Any], split: str, cache_dir: Path, forms: Sequence[str] = tuple(FORMS)
) -> Listing:
    """Find the files of one split.

    What the hub answered is kept below `cache_dir`, so that without a network the same commit is used again;
    a copy in the hub's cache, say by `hf download`, serves as well.

    Args:
        source: `path`, `revision` and `config` of the data set.
        split: the name of the split in the data set.
        cache_dir: root of the caches.
        forms: which of `FORMS` can be read.

    Raises:
        KnotsError: the data set or the split is not there, or cannot be reached and was never here, or it
            is of another form.
    """
    listing = _list(str(source["path"]), source.get("revision"), source.get("config"), split, cache_dir)
    if listing.builder not in forms:
        *most, last = (FORMS[form] for form in forms)
        raise KnotsError(
            f"data set {listing.path!r} holds {listing.builder} files; {', '.join(most)} or {last} are read"
        )
    return listing


def _list(path: str, revision: str | None, config: str | None, split: str, cache_dir: Path) -> Listing:
    folder = Path(path).expanduser().absolute()
    if folder.is_dir():
        return _in_folder(str(folder), config, split, _state(folder))
    if not hub.looks_like_id(path):
        raise KnotsError(f"there is no folder {path!r} with data")
    question = json.dumps([path, revision, config, split])
    memo = cache_dir.absolute() / "listings" / f"{hashlib.sha256(question.encode()).hexdigest()[:24]}.json"
    if memo not in _answers:
        _answers[memo] = _ask_once(path, revision, config, split, memo)
    return _answers[memo]


@lru_cache(maxsize=256)
def _in_folder(path: str, config: str | None, split: str, state: Hashable) -> Listing:
    """What `datasets` finds in a folder, looked up once as long as `state` stays the same.

    A run asks some ten times, and `datasets` takes half a millisecond a picture.
    """
    del state
    return _ask(path, None, config, split)


def _state(folder: Path) -> Hashable:
    """What changes when files of a folder come, go or are renamed, or when its README does."""
    places = [Path(place) for place, _, _ in os.walk(folder)]
    readme = folder / "README.md"
    stats = [(str(place), place.stat()) for place in [*places, *([readme] if readme.is_file() else [])]]
    return tuple(sorted((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))


def _ask_once(path: str, revision: str | None, config: str | None, split: str, memo: Path) -> Listing:
    """Ask the hub, or read what it answered before where the commit is the same or cannot be asked for."""
    import huggingface_hub

    known = _remembered(memo)
    if known is not None and revision is not None and COMMIT.fullmatch(str(revision)):
        return known
    try:
        commit = _commit(path, revision)
        if known is not None and known.commit == commit:
            return known
        listing = _ask(path, commit, config, split)
    except KnotsError as error:
        known = known or _in_hub_cache(path, revision, config, split)
        if known is None:
            raise
        # Who says that there is no network need not be told so of every split.
        level = logging.DEBUG if huggingface_hub.constants.HF_HUB_OFFLINE else logging.WARNING
        log.log(level, "%s; using commit %s, which is here", error, known.commit)
        return known
    write_whole(memo, json.dumps(vars(listing)).encode())
    return listing


def _commit(path: str, revision: str | None) -> str:
    """The commit of a hub id. Without a network `datasets` would try for minutes."""
    import huggingface_hub

    with hub.asking(path, kind="dataset", revision=revision):
        info = huggingface_hub.HfApi().dataset_info(path, revision=revision, timeout=COMMIT_SECONDS)
    return str(info.sha)


def _in_hub_cache(path: str, revision: str | None, config: str | None, split: str) -> Listing | None:
    """From what was downloaded without us. Should some of it be missing, the number of items will tell."""
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            path, repo_type="dataset", revision=revision, local_files_only=True
        )
        copy = _ask(str(folder), None, config, split)
    except (huggingface_hub.errors.LocalEntryNotFoundError, KnotsError):
        return None
    return replace(copy, path=path, commit=Path(folder).name)


def _remembered(memo: Path) -> Listing | None:
    try:
        values = json.loads(memo.read_text(encoding="utf-8"))
        files = {split: tuple(names) for split, names in values["files"].items()}
        options = dict(values.get("options", {}))
        return Listing(values["path"], values["builder"], files, values["commit"], options)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _ask(path: str, revision: str | None, config: str | None, split: str) -> Listing:
    import datasets

    with (
        tempfile.TemporaryDirectory() as scratch,  # `datasets` leaves a lock behind
        hub.asking(path, kind="dataset", revision=revision),
        about_data(path),
        about_config(path, config),
        no_bars(),
    ):
        builder = datasets.load_dataset_builder(path, name=config, revision=revision, cache_dir=scratch)
    kind = type(builder).__module__.split(".")[-1]
    found: Mapping[Any, Any] = builder.config.data_files or {}
    files, commit = _relative({str(name): list(map(str, files)) for name, files in found.items()}, path)
    if split not in files:
        raise unknown(f"split of data set {path!r}:", split, files)
    if kind == "imagefolder":
        return Listing(path, kind, _once_each(files), commit)
    options = _options(builder.config) if kind in ("csv", "json") else {}
    return Listing(path, kind, {split: files[split]}, commit, options)


def _options(config: Any) -> dict[str, Any]:
    """What a README or the ending of a file's name says about how to read it."""
    import datasets

    usual = type(config)()
    common = {one.name for one in fields(datasets.BuilderConfig)}
    own = (one.name for one in fields(config) if one.name not in (*common, "features"))
    return {name: value for name in own if (value := getattr(config, name)) != getattr(usual, name)}


def _relative(found: Mapping[str, list[str]], path: str) -> tuple[dict[str, tuple[str, ...]], str | None]:
    """Names of files in their data set, and the commit of a hub id."""
    if not Path(path).is_absolute():
        matches = {split: [REMOTE.fullmatch(file) for file in files] for split, files in found.items()}
        commits = {match["commit"] for row in matches.values() for match in row if match}
        if len(commits) != 1 or not all(match for row in matches.values() for match in row):
            raise KnotsError(f"data set {path!r} has files that are not in its own repository")
        names = {split: tuple(match["name"] for match in row if match) for split, row in matches.items()}
        return names, commits.pop()
    # `datasets` resolves the folder. Not the files: those of a copy from the hub's cache are links out of it.
    folder = Path(path).resolve()
    return {
        split: tuple(Path(os.path.relpath(file, folder)).as_posix() for file in files)
        for split, files in found.items()
    }, None


def _once_each(files: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Take pictures of a class such as `train_station` out of the splits that only its name suggests."""
    homes: dict[str, set[str]] = {}
    for split, names in files.items():
        for name in names:
            homes.setdefault(name, set()).add(split)

    def belongs(name: str, split: str) -> bool:
        folders = (SPLIT_OF.get(part, part) for part in PurePosixPath(name).parts[:-1])
        return split == next((part for part in folders if part in homes[name]), split)

    return {
        split: tuple(name for name in dict.fromkeys(names) if belongs(name, split))
        for split, names in files.items()
    }


def content_of(listing: Listing, cache_dir: Path) -> str:
    """What tells the files of a split from others: the commit and their names, or a hash of their content."""
    read_as = [listing.builder, listing.commit, *([listing.options] if listing.options else [])]
    digest = hashlib.sha256(json.dumps(read_as, sort_keys=True).encode())
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
        self.known = self._read()

    def _read(self) -> dict[str, str]:
        try:
            known = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

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
        if self.fresh:  # read again, for others may have written meanwhile
            write_whole(self.file, json.dumps({**self._read(), **self.fresh}).encode())
