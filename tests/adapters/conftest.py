"""Tiny transformers models, real PEFT adapters on them, and folders to damage."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForSequenceClassification,
)

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}


def build(kind: str) -> nn.Module:
    """A random tiny model, always the same one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "clip":
            config = CLIPVisionConfig(**SIZES, num_hidden_layers=12, image_size=16, patch_size=8)
            return CLIPVisionModel(config).eval()
        if kind == "llama":
            shape = {**SIZES, "num_key_value_heads": 1, "num_hidden_layers": 2, "vocab_size": 32}
            return LlamaForSequenceClassification(LlamaConfig(**shape, num_labels=3, pad_token_id=0)).eval()
        shape = {"n_embd": 16, "n_head": 2, "n_layer": 2, "vocab_size": 32, "n_positions": 16}
        return GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).eval()


def adapt(kind: str, seed: int = 0, **options: object) -> PeftModel:
    """A tiny model with a PEFT adapter whose every parameter is random."""
    model = get_peft_model(build(kind), LoraConfig(**options))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return model


def peft_deltas(model: nn.Module) -> dict[str, Tensor]:
    """PEFT's own update of every adapted module, [out, in], by its name in the base model."""
    deltas = {}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight") and "default" in getattr(module, "lora_A", {}):
            delta = module.get_delta_weight("default").detach()
            deltas[name.removeprefix("base_model.model.")] = delta.T if module.fan_in_fan_out else delta
    return deltas


def write_adapter(
    folder: Path, tensors: dict[str, Tensor], weights: str = "adapter_model.safetensors", **config: object
) -> Path:
    """A folder in PEFT's layout with these tensors; `config` changes the plain rank-2 configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(plain | config))
    if weights.endswith(".bin"):
        torch.save(tensors, folder / weights)
    else:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / weights)
    return folder


def pair(
    module: str, generator: torch.Generator, rank: int = 2, rows: int = 5, columns: int = 4
) -> dict[str, Tensor]:
    """Random factors of one module under PEFT's names."""
    return {
        f"base_model.model.{module}.lora_A.weight": torch.randn(rank, columns, generator=generator),
        f"base_model.model.{module}.lora_B.weight": torch.randn(rows, rank, generator=generator),
    }


@pytest.fixture
def plain(tmp_path: Path, generator: torch.Generator) -> Callable[..., Path]:
    """Writes an adapter of two modules; keyword arguments change its configuration, `extra` adds tensors."""

    def write(extra: dict[str, Tensor] | None = None, name: str = "digits", **config: object) -> Path:
        tensors = pair("layers.0.q", generator) | pair("layers.1.q", generator) | (extra or {})
        return write_adapter(tmp_path / name, tensors, **config)

    return write
