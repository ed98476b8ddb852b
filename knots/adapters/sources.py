"""Where an adapter comes from: a folder, files shipped with the package, or the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors as hub_errors

from knots.assets import asset_path
from knots.errors import KnotsError

CONFIG_FILE = "adapter_config.json"
SAFETENSORS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
HEADS_FILE = "heads.safetensors"

ASSET = "asset:"


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
    elif isinstance(source, Path) or _looks_local(text):
        raise KnotsError(f"no such folder: {text!r}")
    else:
        folder = _download(text, revision)
        revision = None
    if revision is not None:
        raise KnotsError(f"revision={revision!r} is for adapters on the hub; {text!r} is a folder")
    _check_files(folder, text)
    return folder


def default_name(source: str | Path) -> str:
    """The last part of the path or id."""
    text = os.fspath(source).removeprefix(ASSET)
    return Path(text).expanduser().resolve().name


def _looks_local(text: str) -> bool:
    """Hub ids are `owner/name`: one slash, no leading dot, and no drive letter or backslash."""
    return text.startswith((".", "/", "~")) or text.count("/") != 1 or text.endswith("/") or "\\" in text


def _check_files(folder: Path, source: str) -> None:
    weights = (SAFETENSORS_FILE, PICKLE_FILE)
    if not (folder / CONFIG_FILE).is_file():
        found = sorted(path.name for path in folder.iterdir())
        shown = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "") if found else "nothing"
        raise KnotsError(f"{source!r} is not a PEFT adapter: {CONFIG_FILE} is missing (found: {shown})")
    if not any((folder / name).is_file() for name in weights):
        raise KnotsError(f"{source!r} has no weights: neither {weights[0]} nor {weights[1]} is there")


def _download(repo: str, revision: str | None) -> Path:
    """The snapshot's folder in the hub's cache; the pickle only where there is no safetensors file."""
    files = [CONFIG_FILE, SAFETENSORS_FILE, HEADS_FILE]
    folder = _snapshot(repo, revision, files)
    if not (folder / SAFETENSORS_FILE).is_file():
        folder = _snapshot(repo, revision, [*files, PICKLE_FILE])
    return folder


def _snapshot(repo: str, revision: str | None, files: list[str]) -> Path:
    try:
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=files))
    except hub_errors.HFValidationError as error:
        raise KnotsError(f"{repo!r} is neither a folder nor a hub id (owner/name): {_line(error)}") from error
    except hub_errors.GatedRepoError as error:
        raise KnotsError(
            f"hub repository {repo!r} is gated: accept its terms at {_endpoint()}/{repo} and log in with "
            "`hf auth login` (or set HF_TOKEN)"
        ) from error
    except hub_errors.RepositoryNotFoundError as error:
        raise KnotsError(
            f"no folder {repo!r}, and no such repository on the hub ({_endpoint()}); check the spelling, or "
            "log in with `hf auth login` (or set HF_TOKEN) if it is private"
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise KnotsError(f"hub repository {repo!r} has no revision {revision!r}") from error
    except hub_errors.LocalEntryNotFoundError as error:
        offline = " (HF_HUB_OFFLINE is set)" if huggingface_hub.constants.HF_HUB_OFFLINE else ""
        raise KnotsError(
            f"no folder {repo!r}, and the hub ({_endpoint()}) cannot be reached{offline} nor is all of it in "
            "the local cache; check the network or give the folder of a local copy"
        ) from error
    except Exception as error:  # the client lets errors of the HTTP library it happens to use through
        raise KnotsError(
            f"downloading {repo!r} from the hub ({_endpoint()}) failed: {_line(error)}; try again, or give "
            "the folder of a local copy"
        ) from error


def _endpoint() -> str:
    return str(huggingface_hub.constants.ENDPOINT)


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
