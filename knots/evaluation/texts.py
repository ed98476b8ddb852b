"""Scoring pairs of sentences: each task's own head on the backbone's last hidden state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from knots.errors import KnotsError
from knots.evaluation.batches import TextBatch, TextCut
from knots.evaluation.module import Settings, SuiteEvaluation
from knots.evaluation.precision import exact_float32
from knots.evaluation.predictors import Predictor
from knots.evaluation.results import Speed
from knots.models.classifier import Classifier
from knots.suites.tasks import Suite
from knots.suites.texts import TextArrays
from knots.training import TOKEN_BUDGET

CPU_BUDGET = 768
"""Tokens that go through the model at once on a CPU: few enough for its caches (benchmarks/language.py)."""


def token_budget(device: torch.device) -> int:
    """How many tokens go through the model at once on a device, where the user does not say."""
    return CPU_BUDGET if device.type == "cpu" else TOKEN_BUDGET


class TextEvaluation(SuiteEvaluation[TextBatch]):
    """Scores a decoder: the class that the task's head gives the largest logit, absent ones aside."""

    model: Classifier

    def __init__(
        self,
        model: Classifier,
        suite: Suite,
        predictor: Predictor,
        settings: Settings,
        heads: Sequence[Tensor],
    ) -> None:
        super().__init__(model, suite, predictor, settings)
        self.heads = [head.float() for head in heads]
        for task, head in zip(suite.text_tasks, self.heads, strict=True):
            expected = (len(task.classes), model.width)
            if tuple(head.shape) != expected:
                raise KnotsError(
                    f"task {task.name!r}: its head has shape {tuple(head.shape)}, but its classes and the "
                    f"model need {expected}"
                )

    def prepare_heads(self, device: torch.device) -> None:
        """Put the heads beside the model."""
        self.heads = [head.to(device) for head in self.heads]
        self.masks = [task.mask.to(device) for task in self.suite.text_tasks]
        self.model.suit(device)
        self._budget = self.settings.batch_size or token_budget(device)

    def cut(self, arrays: TextArrays, task: int, copies: int, pinned: bool) -> TextCut:
        """Batches by length, within the budget of tokens."""
        del copies  # one adapter at a time: there is no ensemble of sentences
        return TextCut(arrays, task, self._budget, self.model.pad, pinned=pinned)

    def score(self, batch: TextBatch) -> tuple[Tensor, None]:
        """Logits [B, C_t] in float32; an absent class has the least number there is."""
        with exact_float32(self.device):
            features = self.model(batch.tokens, batch.lengths, lean=True).float()
            logits = features @ self.heads[batch.task].T
        # Not minus infinity: logits that are not finite are no scores.
        return logits.masked_fill(self.masks[batch.task], torch.finfo(logits.dtype).min), None

    def restore(self) -> None:
        """Give the base back as it was, also in how it computes attention."""
        super().restore()
        self.model.suit(None)

    def speed(self, seconds: float, waiting: float) -> Speed:
        """In pairs and tokens a second."""
        cuts = (loader.cut for loader in self.test_dataloader())
        tokens = sum(int(cut.arrays.lengths.sum()) for cut in cuts if isinstance(cut, TextCut))
        return Speed(self.items_now, seconds, waiting, unit="pairs", tokens=tokens)
