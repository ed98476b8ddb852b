"""Lessons for a decoder: pairs of sentences, told apart by a head on the last token.

Shapes: B pairs, C classes, D size of the hidden state, L tokens of the longest pair.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from knots.errors import KnotsError
from knots.finetuning.card import Facts, quoted
from knots.finetuning.decoders import in_training
from knots.finetuning.lessons import Batch, digest_of
from knots.finetuning.plan import FinetuningPlan, LanguagePlan
from knots.finetuning.towers import Trainable
from knots.models.classifier import HEAD, Classifier
from knots.suites.tasks import TextTask
from knots.suites.texts import TextArrays
from knots.training import TextBatches, TextSlices

MASKED = -1e10
"""The logit of a class that the task does not have (the reference's number for training)."""


class PairLogits(nn.Module):
    """What a decoder's own head says of its last token."""

    absent: Tensor

    def __init__(self, classifier: Classifier, task: TextTask) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("absent", task.mask, persistent=False)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits [B, C] of tokens int64 [B, L] and lengths int64 [B]; absent classes have `MASKED`."""
        states = self.classifier(tokens, lengths).float()
        with torch.autocast(states.device.type, enabled=False):
            logits: Tensor = getattr(self.classifier.model, HEAD)(states)
        return logits.masked_fill(self.absent, MASKED)


class PairLesson:
    """A task on pairs of sentences for a decoder with a head of the task's own.

    Args:
        classifier: the decoder, in the precision that the plan wants for the base.
        task: the classes, and which of them are absent.
        data: the splits `train` and `validation`.
        plan: how it is trained.

    Raises:
        KnotsError: the decoder is in another precision.
    """

    before = "untrained"

    def __init__(
        self, classifier: Classifier, task: TextTask, data: Mapping[str, TextArrays], plan: LanguagePlan
    ) -> None:
        if classifier.dtype != base_dtype(plan):
            raise KnotsError(
                f"{task.name}: the base is in {classifier.dtype}, but finetune.base_precision is "
                f"{plan.base_precision}"
            )
        self.classifier, self.task, self.data, self.plan = classifier, task, data, plan
        self.schedule = plan.schedule
        self.accumulate: int | None = plan.accumulate
        self.network: nn.Module = PairLogits(classifier, task)

    def in_training(self) -> AbstractContextManager[Trainable]:
        """A fresh head, and LoRA factors beside the decoder."""
        return in_training(self.classifier, len(self.task.classes), self.plan)

    def batches(self, start: int) -> Iterable[Batch]:
        """Tokens int64 [B, L], lengths [B] and labels."""
        plan = self.plan
        return TextBatches(self.data["train"], self.classifier.pad, plan.batch_size, plan.seed, start)

    def validation(self) -> Any:
        """Pairs by length, as many at once as a budget of tokens allows."""
        return TextSlices(self.data["validation"], self.classifier.pad)

    def identity(self) -> dict[str, str]:
        """The base is known by where it is from or by the content of its files; data by all of them."""
        return {
            "base": json.dumps(self.classifier.base.identity, sort_keys=True),
            "classes": json.dumps([self.task.classes, self.task.absent]),
            **{
                f"{split} data": digest_of(texts.tokens, texts.starts, texts.labels)
                for split, texts in self.data.items()
            },
        }

    def facts(self) -> Facts:
        """Classes, those that are absent, and numbers of pairs."""
        names, absent = self.task.classes, [self.task.classes[number] for number in self.task.absent]
        masked = f"; masked, as the task has none: {quoted(absent)}" if absent else ""
        content = self.classifier.base.identity.get("content")
        return Facts(
            subject="",
            base=f"files: SHA-256 `{content[:16]}`" if content else "",
            task=f"{len(names)} classes in the head: {quoted(names)}{masked}",
            data={
                split: f"{len(texts)} pairs" + (f" ({texts.cut} of them cut)" if texts.cut else "")
                for split, texts in self.data.items()
            },
            before="with a head that was not trained",
            tags=("text-classification", "natural-language-inference"),
        )


def base_dtype(plan: FinetuningPlan) -> torch.dtype:
    """The precision that a plan wants for the weights of the base."""
    half = isinstance(plan, LanguagePlan) and plan.base_precision == "bf16"
    return torch.bfloat16 if half else torch.float32
