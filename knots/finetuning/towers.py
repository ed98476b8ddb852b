"""What is trained of a tower: LoRA factors beside it, or, of a CLIP's, all of its own weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from transformers import CLIPVisionModel

from knots.finetuning.plan import LORA, FinetuningPlan
from knots.models.clip import Clip

FROZEN = "Text heads and projections are the base's own, unchanged."

MARKS = ("lora_", ".modules_to_save.")
"""What the names of the tensors that PEFT trains contain."""


class Trainable(Protocol):
    """A tower in training.

    Attributes:
        kind: how it is called in words.
        library: the package that loads what `save` writes.
        remark: what its card says about the parts around it.
        module: the tower, with whatever was put beside its weights.
    """

    kind: str
    library: str
    remark: str
    module: Any

    def tensors(self) -> dict[str, Tensor]:
        """Copies on the CPU of what training changes, by name."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put what `tensors` gave back."""

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        """Write what was trained into an empty folder, naming no machine."""


class LoraTower:
    """LoRA factors on some linear modules, through PEFT."""

    kind = "LoRA adapter"
    library = "peft"
    remark = FROZEN

    def __init__(self, tower: Any, plan: FinetuningPlan, task_type: str | None = None) -> None:
        assert plan.rank is not None
        config = LoraConfig(
            task_type=task_type,
            r=plan.rank,
            lora_alpha=plan.rank,
            lora_dropout=plan.dropout,
            target_modules=list(plan.modules),
        )
        self.module: Any = get_peft_model(tower, config)

    def tensors(self) -> dict[str, Tensor]:
        """Copies of the factors, and of a head beside them, on the CPU."""
        # Without this PEFT would ask the hub whether the base's vocabulary was resized.
        state = get_peft_model_state_dict(self.module, save_embedding_layers=False)
        return copies(state)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put factors back."""
        set_peft_model_state_dict(self.module, dict(tensors))

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        """Write a PEFT folder of safetensors."""
        trained = {
            name: t for name, t in self.module.state_dict().items() if any(mark in name for mark in MARKS)
        }
        state = {name: tensor.to(dtype) for name, tensor in trained.items()}
        self.module.save_pretrained(folder, state_dict=state, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        config = folder / "adapter_config.json"
        # PEFT keeps the modules as a set: in another process their order would be another.
        values = json.loads(config.read_text())
        values |= {"target_modules": sorted(values["target_modules"]), "base_model_name_or_path": None}
        config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


class FullTower:
    """Every parameter of the vision tower; the projection behind it stays frozen, as the text tower does."""

    kind = "full fine-tune"
    library = "transformers"
    remark = FROZEN

    def __init__(self, clip: Clip) -> None:
        self.module: Any = clip.tower.requires_grad_(True)
        self.config = clip.model.config.vision_config

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all weights, on the CPU."""
        return copies(self.module.state_dict())

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put weights back."""
        self.module.load_state_dict(tensors)

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        """Write a folder that `transformers.CLIPVisionModel` loads."""
        values = self.config.to_dict()
        values.pop("_name_or_path", None)
        model: Any = CLIPVisionModel(type(self.config)(**values))
        # Versions of transformers differ in whether the tower lies in a wrapper.
        getattr(model, "vision_model", model).load_state_dict(self.tensors())
        model.to(dtype).save_pretrained(folder)


@contextmanager
def in_training(clip: Clip, plan: FinetuningPlan) -> Iterator[Trainable]:
    """Make a CLIP's tower trainable while the block runs; afterwards the CLIP is as it was, bit for bit."""
    with _lora(clip, plan) if plan.kind == LORA else _full(clip) as tower, recomputing(clip.model, plan):
        yield tower


@contextmanager
def _lora(clip: Clip, plan: FinetuningPlan) -> Iterator[Trainable]:
    tower = LoraTower(clip.tower, plan)
    try:
        yield tower
    finally:
        tower.module.unload()
        clip.eval()


@contextmanager
def _full(clip: Clip) -> Iterator[Trainable]:
    original = copies(clip.tower.state_dict())
    try:
        yield FullTower(clip)
    finally:
        clip.tower.load_state_dict(original)
        clip.tower.requires_grad_(False)
        clip.zero_grad()
        clip.eval()


@contextmanager
def recomputing(model: Any, plan: FinetuningPlan) -> Iterator[None]:
    """Where the plan wants it: a model of transformers that computes its activations twice."""
    if not plan.gradient_checkpointing:
        yield
        return
    # Newer versions of transformers have it under a new name and warn of the old one.
    word = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    # The reentrant kind would find no input that needs a gradient, and train nothing.
    options = {f"{word}_checkpointing_kwargs": {"use_reentrant": False}}
    getattr(model, f"{word}_checkpointing_enable")(**options)
    # Only the reentrant kind needs embeddings with gradients; a hook for that would stay in the model.
    model.disable_input_require_grads()
    try:
        yield
    finally:
        getattr(model, f"{word}_checkpointing_disable")()


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers in memory of their own, on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
