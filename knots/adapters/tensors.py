"""Tensor files: safetensors and weights-only pickles in, safetensors out as a stream."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from knots.errors import KnotsError

_DAMAGED = "{} is truncated or damaged, or no file of tensors; copy it again"
_LFS_POINTER = b"version https://git-lfs"


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Every tensor of a `.safetensors` or `.bin` file, on the CPU.

    Raises:
        KnotsError: the file is truncated, damaged, not readable, or a pickle that holds more than tensors.
    """
    try:
        with file.open("rb") as stream:
            if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise KnotsError(f"{file} is a Git LFS pointer, not the weights; run `git lfs pull` there")
        tensors = load_file(file) if file.suffix == ".safetensors" else _read_pickle(file)
    except SafetensorError as error:
        raise KnotsError(f"{file} is truncated or damaged, copy it again ({error})") from error
    except OSError as error:
        raise KnotsError(f"cannot read {file}: {error.strerror or error}") from error
    return tensors


def _read_pickle(file: Path) -> dict[str, Tensor]:
    """Never runs code from the file: torch's restricted unpickler knows tensors and plain containers only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of an unusual pickle protocol
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" not in str(error).lower():
            raise KnotsError(_DAMAGED.format(file)) from error
        raise KnotsError(
            f"{file} holds more than tensors, and loading it could run code; ask its author for "
            "adapter_model.safetensors"
        ) from error
    except Exception as error:  # the unpickler stumbles over damaged bytes in any way
        raise KnotsError(_DAMAGED.format(file)) from error
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise KnotsError(f"{file} must hold tensors by name, it holds a {type(content).__name__}")
    return dict(content)


@dataclass(frozen=True)
class Entry:
    """One float32 tensor to be written: its shape is known before, its numbers are made in their turn."""

    key: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]


def write_tensors(file: Path, entries: Sequence[Entry], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file of float32 tensors, holding one of them at a time.

    The format: the header's length (8 bytes, little-endian), a JSON header padded with blanks to a multiple
    of 8, then the tensors' bytes (https://huggingface.co/docs/safetensors).

    Raises:
        OSError: the file cannot be written.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for entry in entries:
        start, end = end, end + 4 * int(torch.Size(entry.shape).numel())
        header[entry.key] = {"dtype": "F32", "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for entry in entries:
            tensor = entry.make().detach().to("cpu", torch.float32).contiguous()
            assert tuple(tensor.shape) == entry.shape
            stream.write(tensor.numpy().astype("<f4", copy=False).data)
