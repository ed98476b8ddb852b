"""What every peer is given: a random vision tower of CLIP's shape, and PEFT folders of adapters for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from knots.randomness import named_generator

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")

SMALL = {"intermediate_size": 64, "image_size": 32, "patch_size": 32}
"""Sides of what no adapter touches, so that those who merge whole models have little beside the rest."""


def write_inputs(folder: Path, *, tasks: int, rank: int, modules: int, width: int) -> None:
    """Write `base/`, a transformers checkpoint, and `adapters/task_<t>/` for it.

    Args:
        folder: where to.
        tasks: T.
        rank: R of every adapter; alpha is the same, so that no scaling is left.
        modules: the projections q, k, v and out of as many layers as that takes; a multiple of 4.
        width: O and I of every module.
    """
    layers = modules // len(PROJECTIONS)
    heads = max(1, width // 64) if width % 64 == 0 else 1
    config = CLIPVisionConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, **SMALL)
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in CLIPVisionModel(config).named_parameters()}
    _write_base(folder / "base", config, shapes)
    touched = [name.removesuffix(".weight") for name in shapes if _is_projection(name)]
    for task in range(tasks):
        _write_adapter(folder / "adapters" / f"task_{task}", touched, rank, width)


def _is_projection(parameter: str) -> bool:
    return parameter.endswith(tuple(f".{projection}.weight" for projection in PROJECTIONS))


def _write_base(folder: Path, config: CLIPVisionConfig, shapes: Mapping[str, Sequence[int]]) -> None:
    folder.mkdir(parents=True)
    weights = {
        name: 0.02 * torch.randn(tuple(shape), generator=named_generator(0, "base", name))
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.architectures = ["CLIPVisionModel"]
    config.save_pretrained(folder)


def _write_adapter(folder: Path, modules: Sequence[str], rank: int, width: int) -> None:
    """All tasks start from one shared A that drifted a little, as adapters of one recipe do."""
    folder.mkdir(parents=True)
    tensors: dict[str, Tensor] = {}
    for module in modules:
        own = named_generator(0, folder.name, module)
        down = torch.randn(rank, width, generator=named_generator(0, "shared", module))
        drift = torch.randn(rank, width, generator=own)
        key = f"base_model.model.{module}"
        tensors[f"{key}.lora_A.weight"] = (down + 0.1 * drift) / width**0.5
        tensors[f"{key}.lora_B.weight"] = 0.05 * torch.randn(width, rank, generator=own)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": list(PROJECTIONS),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
