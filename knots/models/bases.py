"""Where a base model comes from (a folder, the package, the hub), and what tells it from others."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from knots import hub
from knots.assets import ASSET, asset_path
from knots.errors import KnotsError

CONTENT = (".json", ".safetensors", ".bin", ".txt", ".model")
"""Suffixes of the files that make up a base: weights, tokenizer, transform; not its model card."""

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What the file of a model's weights may be called, the better one first."""

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
    folder = hub.snapshot(base, SMALL, one_of=WEIGHTS, revision=revision)
    return Base(folder, {"hub": base, "commit": hub.commit(folder)})


def _folder(folder: Path) -> Base:
    """A folder by names and contents of the files that make up a base."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in CONTENT:
            with path.open("rb") as file:
                digest.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return Base(folder, {"content": digest.hexdigest()})
