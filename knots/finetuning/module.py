"""The Lightning module that teaches a lesson, and what must be kept of it to go on after a kill."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from knots.finetuning.lessons import Batch, Lesson, task_of
from knots.finetuning.plan import FinetuningPlan
from knots.finetuning.towers import Trainable
from knots.training import SCHEDULES

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        accuracy: the best on the validation split so far, as a fraction; of several tasks, their mean.
        best: the tensors that reached it.
        mark: the accuracy that the next ones must beat by more than `min_delta`.
        stale: looks since then.
        zero_shot: the accuracy before training, as a fraction.
    """

    accuracy: float = -1.0
    best: dict[str, Tensor] = field(default_factory=dict)
    mark: float = -1.0
    stale: int = 0
    zero_shot: float = -1.0


class Finetuning(L.LightningModule):
    """Trains what is trainable of a lesson's network to tell the classes of each task apart.

    Attributes:
        progress: how far it is, and the best tensors so far.
    """

    def __init__(self, lesson: Lesson, tower: Trainable, plan: FinetuningPlan) -> None:
        super().__init__()
        self.network, self.tower, self.plan = lesson.network, tower, plan
        self.schedule = SCHEDULES[lesson.schedule]
        # A checkpoint holds only what is trained.
        self.strict_loading = False
        self.progress = Progress()
        self._correct: Counter[int] = Counter()
        self._seen: Counter[int] = Counter()

    def forward(self, *inputs: Any) -> Tensor:
        """Logits [B, C] in float32."""
        logits: Tensor = self.network(*inputs)
        return logits

    def training_step(self, batch: Batch, step: int) -> Tensor:
        """Cross-entropy over the own classes of the batch's task."""
        del step
        *inputs, labels = batch
        loss = F.cross_entropy(self(*inputs), labels)
        self.log("loss", loss, prog_bar=True)
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def validation_step(self, batch: Batch, step: int) -> None:
        """Count what is right, task by task."""
        del step
        *inputs, labels = batch
        if len(labels):
            self._correct[task_of(batch)] += int((self(*inputs).argmax(dim=1) == labels).sum())
            self._seen[task_of(batch)] += len(labels)

    def on_validation_epoch_end(self) -> None:
        """Keep the tensors if they are the best so far; stop when nothing was gained for a while."""
        correct, seen = _added_up(self._correct), _added_up(self._seen)
        shares = [correct[task] / max(1, items) for task, items in sorted(seen.items())]
        now, accuracy = self.progress, sum(shares) / max(1, len(shares))
        self._correct.clear()
        self._seen.clear()
        self.log("accuracy", accuracy, prog_bar=True)
        log.info("step %d: validation accuracy %.2f %%", self.global_step, 100 * accuracy)
        now.stale += 1
        if accuracy > now.mark + self.plan.min_delta:
            now.mark, now.stale = accuracy, 0
        if accuracy > now.accuracy:
            now.accuracy, now.best = accuracy, self.tower.tensors()
        self.trainer.should_stop = now.stale >= self.plan.patience

    def configure_optimizers(self) -> Any:
        """AdamW on what is trained alone, with the lesson's schedule."""
        plan = self.plan
        weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=plan.learning_rate, weight_decay=plan.weight_decay)
        return self.schedule(optimizer, plan.warmup, plan.steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen weights out; add the progress."""
        trained = {name for name, weight in self.named_parameters() if weight.requires_grad}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in state if name in trained}
        # Not `asdict`, which would copy the tensors.
        checkpoint["progress"] = dict(vars(self.progress))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the progress back."""
        self.progress = Progress(**checkpoint["progress"])


def _added_up(counts: Counter[int]) -> Counter[int]:
    """The sum over all processes, the same in each of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return counts
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, counts)
    return sum(everyone, Counter())
