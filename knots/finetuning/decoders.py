"""What is trained of a decoder: LoRA factors and a head on its last token, or the head alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import TaskType
from safetensors.torch import save_file
from torch import Tensor, nn

from knots.finetuning.plan import LORA, FinetuningPlan
from knots.finetuning.towers import LoraTower, Trainable, copies, recomputing
from knots.models.classifier import HEAD, Classifier
from knots.randomness import named_generator

HEAD_FILE = "head.safetensors"
"""What holds a head that was trained alone."""


class LoraWithHead(LoraTower):
    """LoRA factors on some linear modules and the whole head, through PEFT, which keeps both in one file."""

    kind = "LoRA adapter with its head"
    remark = f"The head (`{HEAD}.weight`) was trained in full and is part of the adapter."

    def __init__(self, classifier: Classifier, plan: FinetuningPlan) -> None:
        super().__init__(classifier.tower, plan, TaskType.SEQ_CLS)


class HeadAlone:
    """The head on a frozen decoder."""

    kind = "linear head"
    library = "safetensors"
    remark = f"`{HEAD_FILE}` holds the head (`{HEAD}.weight`); nothing else was trained."

    def __init__(self, classifier: Classifier) -> None:
        self.module: Any = getattr(classifier.model, HEAD).requires_grad_(True)

    def tensors(self) -> dict[str, Tensor]:
        """A copy of the head, on the CPU, as `score.weight`."""
        return copies({f"{HEAD}.weight": self.module.weight})

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put the head back."""
        self.module.load_state_dict({"weight": tensors[f"{HEAD}.weight"]})

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        """Write one file of safetensors."""
        save_file({name: tensor.to(dtype) for name, tensor in self.tensors().items()}, folder / HEAD_FILE)


@contextmanager
def in_training(classifier: Classifier, classes: int, plan: FinetuningPlan) -> Iterator[Trainable]:
    """Give a decoder a fresh head and make it trainable while the block runs; afterwards it is as it was.

    Args:
        classifier: the decoder.
        classes: C, the rows of the head.
        plan: what is trained; its seed decides the head, and the global generator the factors.
    """
    model = classifier.model
    original = getattr(model, HEAD)
    setattr(model, HEAD, _fresh_head(classifier, classes, plan.seed))
    tower: Trainable | None = None
    try:
        tower = LoraWithHead(classifier, plan) if plan.kind == LORA else HeadAlone(classifier)
        with recomputing(model, plan):
            yield tower
    finally:
        if isinstance(tower, LoraTower):
            tower.module.unload()
        setattr(model, HEAD, original)
        classifier.eval()


def _fresh_head(classifier: Classifier, classes: int, seed: int) -> nn.Linear:
    """A head [C, D] in float32, drawn as transformers draws one, the same for all tasks of C classes."""
    head = nn.Linear(classifier.width, classes, bias=False, device="meta").to_empty(device="cpu")
    spread = float(classifier.model.config.get_text_config().initializer_range)
    with torch.no_grad():
        head.weight.normal_(0.0, spread, generator=named_generator(seed, HEAD))
    return head.to(classifier.device)
