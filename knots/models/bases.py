"""Where a base model comes from (a folder, the package, the hub), and what tells it from others."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from knots import hub
from knots.assets import ASSET, asset_path
from knots.errors import KnotsError, first_line

CONTENT = (".json", ".safetensors", ".bin", ".txt", ".model")
"""Suffixes of the files that make up a base: weights, tokenizer, transform; not its model card."""

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What the file of a model's weights may be called, the better one first."""

INDICES = tuple(f"{name}.index.json" for name in WEIGHTS)
"""What the list of files is called where the weights are in several."""

SMALL = ("*.json", "*.txt", "*.model")


@dataclass(frozen=True)
class Base:
    """A base model on this machine.

    Attributes:
        folder: where its files are.
        identity: the commit of a hub id, or a hash of the files' content, as plain values.
    """

    folder: Path
    identity: dict[str, str]


def find_base(base: str, revision: str | None) -> Base:
    """Locate a base; a hub id is downloaded to the hub's cache.

    Args:
        base: a folder, `asset:<path>` for one that ships with the package, or a hub id.
        revision: branch, tag or commit of a hub id; None is its main branch.

    Raises:
        KnotsError: it is not there, or cannot be had from the hub.
    """
    if base.startswith(ASSET):
        return _folder(asset_path(base.removeprefix(ASSET)))
    folder = Path(base).expanduser()
    if folder.is_dir():
        return _folder(folder)
    if folder.is_absolute() or base.startswith((".", "~")) or base.count("/") > 1:
        raise KnotsError(f"there is no folder {base!r} to load a model from")
    folder = hub.snapshot(base, [*SMALL, WEIGHTS[0]], revision=revision)
    commit, shards = hub.commit(folder), _shards(folder)
    # Where there is no list of files, one file holds all weights.
    folder = hub.snapshot(base, shards, one_of=() if shards else WEIGHTS, revision=commit)
    _check_shards(base, folder, shards)
    return Base(folder, {"hub": base, "commit": commit})


def _shards(folder: Path) -> list[str]:
    """The names of the files that the weights are spread over; none where they are in one of the best kind.

    Raises:
        KnotsError: the list of them cannot be read.
    """
    return sorted(set(_index(folder).values()))


def _index(folder: Path) -> Mapping[str, str]:
    """Weight -> the file that it is in; empty where all are in one file of the best kind."""
    index = next((folder / name for name in INDICES if (folder / name).is_file()), None)
    if index is None or (folder / WEIGHTS[0]).is_file():
        return {}
    try:
        return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise KnotsError(f"{index} lists no files of weights: {first_line(error)}") from error


def _check_shards(base: str, folder: Path, shards: Sequence[str]) -> None:
    absent = [name for name in shards if not (folder / name).is_file()]
    if absent:
        raise KnotsError(
            f"base {base!r}: {len(absent)} of its {len(shards)} files of weights are not there, such as "
            f"{absent[0]!r}; get them anew, from the hub with a network"
        )


def files_of(base: Base) -> list[Path]:
    """The files that make up a base, in order of their names."""
    return sorted(path for path in base.folder.iterdir() if path.suffix in CONTENT)


def weights_of(base: Base) -> list[Path]:
    """The files of a base's weights.

    Raises:
        KnotsError: the list of them cannot be read.
    """
    names = _shards(base.folder) or [name for name in WEIGHTS if (base.folder / name).is_file()][:1]
    return [base.folder / name for name in names]


def check_headers(base: Base) -> None:
    """Check without reading a weight that the files are whole and hold every weight that their list names.

    Raises:
        KnotsError: a file is truncated or damaged, or lacks a weight.
    """
    index = _index(base.folder)
    for path in weights_of(base):
        held = weights_in(path)
        absent = [weight for weight, name in index.items() if name == path.name and weight not in held]
        if absent:
            raise KnotsError(f"{path} lacks {len(absent)} weights, such as {min(absent)!r}; get it anew")


def weights_in(path: Path) -> set[str]:
    """The names of the weights in a file, `.safetensors` or a pickle, by its header.

    Raises:
        KnotsError: the file is truncated or damaged.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return set(file.keys())
        mapped = zipfile.is_zipfile(path)
        return set(torch.load(path, map_location="meta", mmap=mapped, weights_only=True))
    except Exception as error:  # damaged bytes make either reader stumble in any way
        raise KnotsError(f"{path} is truncated or damaged, get it anew ({first_line(error)})") from error


def check_weights(name: str, base: str, absent: Sequence[str], of: str = "") -> None:
    """Refuse a base whose files lack weights, which transformers would fill with random numbers.

    Args:
        name: how the model is called.
        base: as the user named it.
        absent: the weights' names.
        of: what they are of, in words that follow "weights".

    Raises:
        KnotsError: there are some.
    """
    if absent:
        raise KnotsError(
            f"model {name!r}: the base {base!r} lacks {len(absent)} weights{of}, such as {min(absent)!r}"
        )


def _folder(folder: Path) -> Base:
    """A folder by names and contents of the files that make up a base."""
    _check_shards(str(folder), folder, _shards(folder))
    digest = hashlib.sha256()
    for path in files_of(Base(folder, {})):
        with path.open("rb") as file:
            digest.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return Base(folder, {"content": digest.hexdigest()})
