"""What a lesson is: a network whose logits tell the classes of one task apart, its items, and what both are.

There is one kind a modality (`pictures.py`, `pairs.py`), and one of several tasks at once (`joint.py`);
training, checkpoints and cards know only this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from torch import nn

from knots.finetuning.card import Facts
from knots.finetuning.towers import Trainable

Batch = tuple[Any, ...]
"""What a network takes, tensors, and the labels int64 [B] behind it; of several tasks, first its number."""


class Lesson(Protocol):
    """One task for one model, or several at once.

    Attributes:
        network: logits float32 [B, C] of a batch; it is the model itself with a head on it.
        schedule: how the learning rate falls, a name of `knots.training.SCHEDULES`.
        accumulate: batches that make up a step; None leaves it to the options of the trainer.
        before: what the accuracy before training is called.
    """

    network: nn.Module
    schedule: str
    accumulate: int | None
    before: str

    def in_training(self) -> AbstractContextManager[Trainable]:
        """Make what is trained trainable while the block runs; afterwards the model is as it was."""

    def batches(self, start: int) -> Iterable[Batch]:
        """Endless random batches of the split `train`, without the first `start`."""

    def validation(self) -> Any:
        """The split `validation`, a dataset of whole batches."""

    def identity(self) -> dict[str, str]:
        """What the model and the items are, by part, `base` among them: two that agree are the same."""

    def facts(self) -> Facts:
        """What the card says of them."""


def task_of(batch: Batch) -> int:
    """The number of the task that a batch is of; 0 where a lesson has only one."""
    return batch[0] if isinstance(batch[0], int) else 0


def digest_of(*parts: Any) -> str:
    """SHA-256 in hex of texts and arrays."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).data)
    return digest.hexdigest()
