"""Where an adapter comes from: a folder, files shipped with the package, or the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path

from knots import hub
from knots.assets import ASSET, asset_path
from knots.errors import KnotsError

CONFIG_FILE = "adapter_config.json"
SAFETENSORS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
WEIGHTS = (SAFETENSORS_FILE, PICKLE_FILE)
HEADS_FILE = "heads.safetensors"


def locate(source: str | Path, revision: str | None) -> Path:
    """The local folder that holds the adapter's files; a hub repository is downloaded to the hub's cache.

    Args:
        source: a folder, `asset:<path>` for files shipped with the package, or a hub id `owner/name`.
        revision: branch, tag or commit on the hub.

    Raises:
        KnotsError: no such folder or repository, no access, no network, or no adapter in it.
    """
    text = os.fspath(source)
    if not text:
        raise KnotsError("the adapter's source is empty; give a folder or a hub id (owner/name)")
    if text.startswith(ASSET):
        folder = asset_path(text.removeprefix(ASSET))
    elif (folder := Path(text).expanduser()).is_dir():
        pass
    elif folder.exists():
        raise KnotsError(f"{text!r} is a file; give the folder that holds {CONFIG_FILE} and the weights")
    elif isinstance(source, Path) or not hub.looks_like_id(text):
        raise KnotsError(f"no such folder: {text!r}")
    else:
        folder = _from_hub(text, revision)
        revision = None
    if revision is not None:
        raise KnotsError(f"revision={revision!r} is for adapters on the hub; {text!r} is a folder")
    _check_config(folder, text)
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise KnotsError(f"{text!r} has no weights: neither {WEIGHTS[0]} nor {WEIGHTS[1]} is there")
    return folder


def default_name(source: str | Path) -> str:
    """The last part of the path or id."""
    text = os.fspath(source).removeprefix(ASSET)
    return Path(text).expanduser().resolve().name


def _check_config(folder: Path, source: str) -> None:
    if not (folder / CONFIG_FILE).is_file():
        found = sorted(path.name for path in folder.iterdir())
        shown = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "") if found else "nothing"
        raise KnotsError(f"{source!r} is not a PEFT adapter: {CONFIG_FILE} is missing (found: {shown})")


def _from_hub(repo: str, revision: str | None) -> Path:
    """The files in the hub's cache. The configuration comes first: without it there is no adapter."""
    folder = hub.snapshot(repo, [CONFIG_FILE, HEADS_FILE], revision=revision)
    _check_config(folder, repo)
    return hub.snapshot(repo, [], one_of=WEIGHTS, revision=hub.commit(folder))
