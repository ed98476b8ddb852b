"""From a PEFT folder, hub id or shipped asset to an Adapter."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from knots.adapters.adapter import Adapter, content_fingerprint
from knots.adapters.config import MERGE_IT, LoraSettings, read_settings
from knots.adapters.keys import Parts, sort_out
from knots.adapters.sources import (
    CONFIG_FILE,
    HEADS_FILE,
    PICKLE_FILE,
    SAFETENSORS_FILE,
    default_name,
    locate,
)
from knots.adapters.tensors import read_tensors
from knots.errors import KnotsError
from knots.updates import LowRank


def load_adapter(source: str | Path, *, name: str | None = None, revision: str | None = None) -> Adapter:
    """Load a LoRA adapter that PEFT saved. The base model is not needed.

    dW = scaling * lora_B @ lora_A in the orientation [O, I], also where `fan_in_fan_out` says that the base
    stores its weights transposed; the scaling (alpha / r, or alpha / sqrt(r) for rsLoRA, with the patterns of
    the config) is absorbed in B. Factors and heads are held in float32 on the CPU.

    Args:
        source: a PEFT folder, a hub id `owner/name`, or `asset:<path>` for one shipped with the package.
        name: the task's name; by default the last part of `source`.
        revision: branch, tag or commit, for hub ids.

    Raises:
        KnotsError: the source cannot be found or read, the adapter is not plain LoRA, or its tensors are
            incomplete, all zero, not finite or of another rank than its config says.
    """
    folder = locate(source, revision)
    name = name or default_name(source)
    settings, parts = _read(folder, name)
    updates = _updates(parts, settings, name)
    if _all_zero(updates):
        raise KnotsError(
            f"adapter {name!r} is a zero update: every lora_B would load as zeros, as when an adapter was "
            "not trained, or was saved after its keys had matched no module"
        )
    heads = _checked_heads(parts.heads, name) | _heads_beside(folder / HEADS_FILE, name)
    flag = settings.fan_in_fan_out
    return Adapter(
        name=name,
        updates=updates,
        heads=heads,
        prefix=parts.prefix,
        base=settings.base,
        source=os.fspath(source),
        fingerprint=content_fingerprint(updates, heads, prefix=parts.prefix, fan_in_fan_out=flag),
        fan_in_fan_out=flag,
    )


def is_zero_update(source: str | Path, *, revision: str | None = None) -> bool:
    """Whether an adapter changes nothing: of every module lora_A or lora_B is zero.

    `load_adapter` refuses such an adapter. Some are published all the same, to carry a base model's head or
    the A that several tasks started from. Its heads count for nothing here.

    Args:
        source: a PEFT folder, a hub id `owner/name`, or `asset:<path>`, as of `load_adapter`.
        revision: branch, tag or commit, for hub ids.

    Raises:
        KnotsError: as `load_adapter`, but for the zeros.
    """
    folder, name = locate(source, revision), default_name(source)
    settings, parts = _read(folder, name)
    return _all_zero(_updates(parts, settings, name))


def _read(folder: Path, adapter: str) -> tuple[LoraSettings, Parts]:
    settings = read_settings(folder / CONFIG_FILE, adapter)
    file = folder / SAFETENSORS_FILE
    tensors = read_tensors(file if file.is_file() else folder / PICKLE_FILE)
    return settings, sort_out(tensors, settings.modules_to_save, adapter)


def _all_zero(updates: Mapping[str, LowRank]) -> bool:
    return not any(bool(update.b.any()) and bool(update.a.any()) for update in updates.values())


def _updates(parts: Parts, settings: LoraSettings, adapter: str) -> dict[str, LowRank]:
    found = settings.rank_and_scaling(parts.prefix + module for module in parts.factors)
    updates = {}
    for module, (lora_a, lora_b) in parts.factors.items():
        label = f"adapter {adapter!r}, module {module!r}"
        rank, scaling = found[parts.prefix + module]
        a, b = _checked(lora_a, label), _checked(lora_b, label)
        _check_shapes(a, b, rank, label)
        updates[module] = LowRank(b.mul_(scaling), a)
    return updates


def _checked(tensor: Tensor, label: str) -> Tensor:
    """A float32 copy, which shares no memory with the file."""
    if not tensor.is_floating_point():
        raise KnotsError(f"{label}: weights are {tensor.dtype}, not floating point numbers")
    copy = tensor.to(torch.float32, copy=True).contiguous()
    if not bool(torch.isfinite(copy).all()):
        raise KnotsError(f"{label}: weights are NaN or infinite")
    return copy


def _check_shapes(a: Tensor, b: Tensor, rank: int, label: str) -> None:
    shapes = f"lora_A {tuple(a.shape)}, lora_B {tuple(b.shape)}"
    if a.ndim != 2 or b.ndim != 2:
        kind = "a convolution" if 4 in (a.ndim, b.ndim) else "no linear module"
        raise KnotsError(f"{label}: {kind} ({shapes}), so the update is not B @ A; {MERGE_IT}")
    if a.shape[0] != b.shape[1]:
        raise KnotsError(f"{label}: the factors do not fit: {shapes}; they must be [R, I] and [O, R]")
    if a.shape[0] != rank:
        raise KnotsError(
            f"{label}: the config says rank {rank}, the tensors have rank {a.shape[0]} ({shapes}); the "
            "scaling would be wrong, so correct r or rank_pattern in adapter_config.json"
        )


def _heads_beside(file: Path, adapter: str) -> dict[str, Tensor]:
    """The heads that `save_adapter` writes beside the adapter."""
    if not file.is_file():
        return {}
    return _checked_heads(read_tensors(file), adapter)


def _checked_heads(heads: Mapping[str, Tensor], adapter: str) -> dict[str, Tensor]:
    return {key: _checked(head, f"adapter {adapter!r}, head {key!r}") for key, head in heads.items()}
