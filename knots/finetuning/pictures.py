"""Lessons for the vision tower of a CLIP: pictures against the frozen heads of its text tower.

Shapes: B pictures, C classes, D size of the feature space.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from knots.finetuning.card import Facts, quoted
from knots.finetuning.lessons import Batch, digest_of
from knots.finetuning.plan import VisionPlan
from knots.finetuning.towers import Trainable, in_training
from knots.models.clip import Clip
from knots.models.heads import task_features
from knots.suites.data import ImageArrays
from knots.suites.tasks import ImageTask
from knots.training import Batches, Slices

PROBES = 64
"""Pictures of a split that stand for all of them when it is recognized."""

VALIDATION_BATCH = 500
VALIDATION_BYTES = 32 * 2**20
"""The most pictures, and bytes of them, that are validated at once."""


class PictureLogits(nn.Module):
    """Scaled cosines of pictures with frozen heads."""

    heads: Tensor

    def __init__(self, clip: Clip, heads: Tensor, scale: float) -> None:
        super().__init__()
        self.clip, self.scale = clip, scale
        # Inference tensors, as text features may be, cannot take part in training.
        self.register_buffer("heads", heads.clone(), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits [B, C] of uint8 pictures [B, H, W, 3]."""
        features = self.clip(pictures).float()
        # In half precision, logits of some thousands would differ by whole numbers only.
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.scale * features @ self.heads.T
        return logits


class PictureLesson:
    """A task of images for the vision tower of a CLIP, against the heads of its text tower.

    Args:
        clip: the base.
        task: the classes and prompts.
        data: the splits `train` and `validation`.
        plan: how it is trained.
        cache_dir: where class features are kept; None keeps none.
    """

    schedule = "cosine"
    accumulate: int | None = None
    before = "zero_shot"

    def __init__(
        self,
        clip: Clip,
        task: ImageTask,
        data: Mapping[str, ImageArrays],
        plan: VisionPlan,
        cache_dir: Path | None = None,
    ) -> None:
        (self.heads,) = task_features(clip, [task], cache_dir)
        self.clip, self.task, self.data, self.plan = clip, task, data, plan
        self.network: nn.Module = PictureLogits(clip, self.heads, plan.scale)

    def in_training(self) -> AbstractContextManager[Trainable]:
        """The vision tower, or LoRA factors beside it."""
        return in_training(self.clip, self.plan)

    def batches(self, start: int) -> Iterable[Batch]:
        """Pictures uint8 [B, H, W, 3] and labels."""
        train, plan = self.data["train"], self.plan
        return Batches(train.images, train.labels, plan.batch_size, plan.seed, plan.shift, start)

    def validation(self) -> Any:
        """Pictures in the split's own order."""
        data = self.data["validation"]
        size = int(max(1, min(VALIDATION_BATCH, VALIDATION_BYTES // max(1, data.images[:1].nbytes))))
        return Slices(data.images, data.labels, size)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the vision tower, the projection behind it and the heads; asked for before training."""
        tower, projection = self.clip.tower.state_dict(), self.clip.model.visual_projection.weight
        parts = {**tower, "heads": self.heads, "projection": projection}
        return digest_of(*(part for name, tensor in parts.items() for part in (name, _array(tensor))))

    def identity(self) -> dict[str, str]:
        """Data are known by their labels, shape and some pictures: a split may be too large to be read."""
        return {
            "base": self.fingerprint,
            **{f"{split} data": digest_of(*_probes(arrays)) for split, arrays in self.data.items()},
        }

    def facts(self) -> Facts:
        """Prompts and numbers of pictures."""
        return Facts(
            subject="the vision tower of",
            base=f"vision tower and text heads: SHA-256 `{self.fingerprint[:16]}`",
            task=f"{len(self.task.classes)} classes; prompts: {quoted(self.task.templates)}",
            data={split: f"{len(arrays)} pictures" for split, arrays in self.data.items()},
            before="the base without training",
            tags=("clip", "image-classification"),
        )


def _probes(arrays: ImageArrays) -> list[Any]:
    count = len(arrays)
    chosen = np.unique(np.linspace(0, max(0, count - 1), min(PROBES, count)).astype(int))
    return [str(arrays.images.shape), np.asarray(arrays.labels), np.asarray(arrays.images[chosen])]


def _array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().numpy()
