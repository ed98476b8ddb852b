"""Scoring pictures: cosines with the features of class names, per task, over all classes jointly, or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from knots.evaluation.batches import Batch, Cut, ImageCut
from knots.evaluation.module import Settings, SuiteEvaluation
from knots.evaluation.precision import exact_float32
from knots.evaluation.predictors import Predictor
from knots.evaluation.results import Speed
from knots.evaluation.scores import class_scores
from knots.models.clip import Clip
from knots.models.heads import Heads, build_heads
from knots.suites.data import ImageArrays
from knots.suites.tasks import Suite

LOGIT_SCALE = 100.0
"""Factor on the cosines in the reference's half-precision scoring."""

HeadsOrMaker = Heads | Callable[[torch.device], Heads] | None
"""Class features, or what embeds them on a device; None embeds them from the suite's prompts."""


class ImageEvaluation(SuiteEvaluation[Batch]):
    """Scores a CLIP: the class whose features are nearest to the image's."""

    model: Clip

    def __init__(
        self,
        model: Clip,
        suite: Suite,
        predictor: Predictor,
        settings: Settings,
        heads: HeadsOrMaker = None,
    ) -> None:
        super().__init__(model, suite, predictor, settings)
        self._make_heads = heads
        self.heads: Heads | None = heads if isinstance(heads, Heads) else None

    def prepare_heads(self, device: torch.device) -> None:
        """Embed the classes where that was not done before."""
        if self.heads is None:
            make = self._make_heads
            self.heads = make(device) if callable(make) else build_heads(self.model, self.suite)
        self.heads = self.heads.to(device)
        self.labels = self.heads.labels

    def cut(self, arrays: ImageArrays, task: int, copies: int, pinned: bool) -> Cut[Batch]:
        """Batches of equally many pictures; fewer where copies of each go through the tower."""
        assert self.settings.batch_size is not None
        return ImageCut(arrays, task, max(1, self.settings.batch_size // copies), pinned)

    def score(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Cosines [B, C_t] with the task's own classes and [B, C] with all; None where not asked for."""
        assert self.heads is not None
        own, joint = None, None
        wants_own, wants_joint = self.settings.mode != "joint", self.settings.mode != "per_task"
        head = self.heads.tasks[batch.task]
        if wants_joint or not self._half:
            with exact_float32(self.device):
                features = self._features(batch.images)
                joint = class_scores(features, self.heads.joint) if wants_joint else None
                own = class_scores(features, head) if wants_own else None
        if wants_own and self._half:
            with torch.autocast(self.device.type, dtype=torch.float16):
                own = class_scores(self._features(batch.images), LOGIT_SCALE * head)
        return own, joint

    def speed(self, seconds: float, waiting: float) -> Speed:
        """In images a second."""
        return Speed(self.items_now, seconds, waiting)

    def notes(self) -> Sequence[str]:
        """That half precision of a CPU is not a GPU's."""
        if not self._half or self.device.type == "cuda":
            return ()
        kind = self.device.type.upper()
        return (f"tasks were scored in the half precision of the {kind}, not of a GPU",)

    @property
    def _half(self) -> bool:
        """Whether the tasks' own classes are scored in half precision."""
        return self.settings.protocol == "reference"

    def _features(self, images: Tensor) -> Tensor:
        """Image features [M, B, D] of the M models that are active, in one pass over M copies."""
        assert self.heads is not None
        copies = max(1, len(self.active))
        if len(images) == 0:
            return self.heads.joint.new_zeros(copies, 0, self.heads.joint.shape[1])
        pixels = self.model.normalize(images)
        features: Tensor = self.model(pixels.repeat(copies, 1, 1, 1) if copies > 1 else pixels)
        return features.float().view(copies, len(images), -1)
