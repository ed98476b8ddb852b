"""Files of tensors that a user names by path or URL."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from knots.errors import KnotsError, first_line
from knots.files import write_whole

DOWNLOAD_SECONDS = 60


def local_file(place: str, where: str, folder: Path) -> Path:
    """The file on this machine; what a URL names is downloaded once and kept for good.

    Args:
        place: a path or a URL.
        where: how messages call the file.
        folder: where downloads are kept.

    Raises:
        KnotsError: there is no such file, or it cannot be downloaded.
    """
    if "://" not in place:
        path = Path(place).expanduser()
        if not path.is_file():
            raise KnotsError(f"{where} is not there")
        return path
    path = folder / f"{hashlib.sha256(place.encode()).hexdigest()[:24]}{Path(urlsplit(place).path).suffix}"
    if not path.is_file():
        try:
            with urllib.request.urlopen(place, timeout=DOWNLOAD_SECONDS) as answer:
                write_whole(path, answer.read())
        except (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise KnotsError(f"{where} cannot be downloaded: {reason}; give the path of a copy") from error
    return path


def load_tensors(path: Path, where: str) -> Any:
    """What a file holds, `.safetensors` or a pickle, which is read weights-only.

    Args:
        path: the file.
        where: how messages call it.

    Returns:
        Tensors by name; of a pickle whatever was saved.

    Raises:
        KnotsError: it cannot be read.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # damaged bytes make either reader stumble in any way
        raise KnotsError(f"{where} cannot be read: {first_line(error)}") from error
