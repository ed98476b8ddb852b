"""Full fine-tunes as task updates: what training changed in every linear module of a CLIP's vision tower."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from knots import hub
from knots.adapters.adapter import Adapter, content_fingerprint
from knots.adapters.tensors import read_tensors
from knots.errors import KnotsError
from knots.models.bases import WEIGHTS
from knots.models.clip import Clip
from knots.updates import Dense

PREFIXES = ("", "vision_model.", "clip.vision_model.")
"""What the keys of a vision tower may begin with, by who saved it."""


def load_finetuned(source: str | Path, clip: Clip, *, name: str, revision: str | None = None) -> Adapter:
    """Load a full fine-tune as dense updates dW = W_finetuned - W_base of the vision tower's linear modules.

    Biases, norms and embeddings are no part of a task update; a warning says how much of the change they
    hold. The text tower and the projections, which such a file may hold too, are not looked at.

    Args:
        source: a folder or hub id with `model.safetensors`, or `pytorch_model.bin` (read weights-only).
        clip: the base that the fine-tune started from, in float32.
        name: the task's name.
        revision: branch, tag or commit, for hub ids.

    Raises:
        KnotsError: the weights cannot be found or read, lack a module of the tower, have another shape, are
            not finite, or equal the base's.
    """
    folder = locate_finetuned(source, revision)
    state = _of_tower(read_tensors(_weights_file(folder, name)), clip.tower, name)
    linear = dict(_linear_weights(clip.tower))
    absent = [module for key, module in linear.items() if key not in state]
    if absent:
        raise KnotsError(f"full fine-tune {name!r} has no weights for module {absent[0]!r}")
    weights = dict(clip.tower.named_parameters())
    changes = {key: _change(tensor, weights[key], key, name) for key, tensor in state.items()}
    updates = {module: Dense(changes[key]) for key, module in linear.items()}
    _check_size(changes, linear, name)
    fingerprint = content_fingerprint(updates, {})
    return Adapter(name=name, updates=updates, source=os.fspath(source), fingerprint=fingerprint)


def locate_finetuned(source: str | Path, revision: str | None = None) -> Path:
    """The local folder of a full fine-tune; a hub repository is downloaded to the hub's cache.

    Raises:
        KnotsError: it is not there, or cannot be had.
    """
    text = os.fspath(source)
    folder = Path(text).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise KnotsError(f"revision={revision!r} is for models on the hub; {text!r} is a folder")
        return folder
    if isinstance(source, Path) or not hub.looks_like_id(text):
        raise KnotsError(f"no such folder: {text!r}")
    return hub.snapshot(text, ["config.json"], one_of=WEIGHTS, revision=revision)


def _weights_file(folder: Path, name: str) -> Path:
    for file in WEIGHTS:
        if (folder / file).is_file():
            return folder / file
    raise KnotsError(f"full fine-tune {name!r}: neither {' nor '.join(WEIGHTS)} is in {folder}")


def _linear_weights(tower: nn.Module) -> Iterator[tuple[str, str]]:
    """The key of every linear module's weight, and the module's name."""
    for module_name, module in tower.named_modules():
        if isinstance(module, nn.Linear):
            yield f"{module_name}.weight", module_name


def _of_tower(tensors: Mapping[str, Tensor], tower: nn.Module, name: str) -> dict[str, Tensor]:
    """The tensors of the vision tower by its own keys; the prefix is the one that fits most of them."""
    keys = {key for key, _ in tower.named_parameters()}

    def fitting(prefix: str) -> dict[str, Tensor]:
        short = {key.removeprefix(prefix): key for key in tensors if key.startswith(prefix)}
        return {key: tensors[whole] for key, whole in short.items() if key in keys}

    found = max((fitting(prefix) for prefix in PREFIXES), key=len)
    if not found:
        raise KnotsError(
            f"full fine-tune {name!r} holds no weights of a vision tower: its keys look like "
            f"{min(tensors, default='(none)')!r}, the tower's like {min(keys)!r}"
        )
    return found


def _change(finetuned: Tensor, base: Tensor, key: str, name: str) -> Tensor:
    """W_finetuned - W_base in float32, on the CPU."""
    if finetuned.shape != base.shape:
        raise KnotsError(
            f"full fine-tune {name!r}, {key!r}: shape {tuple(finetuned.shape)}, but the base has "
            f"{tuple(base.shape)}; it was made from another model"
        )
    if not bool(torch.isfinite(finetuned).all()):
        raise KnotsError(f"full fine-tune {name!r}, {key!r}: weights are NaN or infinite")
    return finetuned.float() - base.detach().cpu().float()


def _check_size(changes: Mapping[str, Tensor], linear: Mapping[str, str], name: str) -> None:
    """Raise if the linear modules did not change; warn of what changed beside them."""
    sizes = {key: float(change.double().square().sum()) for key, change in changes.items()}
    kept = sum(sizes[key] for key in linear)
    left = sum(sizes.values()) - kept
    if not kept:
        raise KnotsError(
            f"full fine-tune {name!r} is a zero update: every linear module has the weights of the base"
        )
    if any(sizes[key] for key in sizes if key not in linear):
        warnings.warn(
            f"full fine-tune {name!r}: {100 * left / (kept + left):.2g} % of its change (squared norm) is in "
            "biases, norms and embeddings, which are no part of a task update and are left out",
            stacklevel=3,
        )
