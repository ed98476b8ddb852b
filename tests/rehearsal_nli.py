"""The paper's six language adapters on a loopback hub, as they are there; data are those of `suites.nli6`.

The base is random, so accuracies mean nothing; what is rehearsed is everything else.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tests.hub import Hub, files_of
from tests.language import CLASSES
from tests.rehearsal import pickled_adapter
from tests.suites.nli6 import TASKS

BASE = "meta-llama/Meta-Llama-3-8B"
PATTERN = "hoffman-lab/KnOTS-Llama3_8B_lora_R16_{}"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


def serve_adapters(hub: Hub, folder: Path, width: int, kv_width: int, layers: int, rank: int = 16) -> None:
    """The six adapters as the hub has them, pickled and with their heads, and the one that is the base."""
    for seed, task in enumerate((*TASKS, "pretrained_model")):
        tensors = adapter_tensors(seed, width, kv_width, layers, rank)
        if task == "pretrained_model":
            tensors = {k: torch.zeros_like(t) if "lora_B" in k else t for k, t in tensors.items()}
        place = pickled_adapter(folder / task, tensors, rank, PROJECTIONS, BASE, "SEQ_CLS")
        hub.models[PATTERN.format(task)] = files_of(place)


def adapter_tensors(seed: int, width: int, kv_width: int, layers: int, rank: int) -> dict[str, Tensor]:
    """Random factors, all from one shared A, and a head, under the keys of the hub's files."""
    shared, own = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(layers):
        for name in PROJECTIONS:
            rows = kv_width if name in ("k_proj", "v_proj") else width
            key = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            down = torch.randn(rank, width, generator=shared) / width**0.5
            drift = torch.randn(rank, width, generator=own) / width**0.5
            tensors[f"{key}.lora_A.weight"] = down + 0.1 * drift
            tensors[f"{key}.lora_B.weight"] = 0.05 * torch.randn(rows, rank, generator=own)
    tensors["base_model.model.score.weight"] = torch.randn(len(CLASSES), width, generator=own) / width**0.5
    return tensors
