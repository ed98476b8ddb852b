"""The Lightning module that scores a suite: per task, over all classes jointly, or both.

It is tested over one dataloader a task. Merging happens in `setup`, on the device that the trainer
will run on; `setup` comes before Lightning moves the module, so it asks the strategy for the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from knots.adapters import Adapter
from knots.evaluation.batches import Batch, ShardedBatches, sharded_loaders
from knots.evaluation.metrics import ItemTable, JointCounts, TaskCounts
from knots.evaluation.precision import exact_float32
from knots.evaluation.predictors import Merged, Plan, Predictor
from knots.evaluation.results import EvaluationResult, Speed, build_result, joint_result
from knots.evaluation.scores import NO_PREDICTION, class_scores, group_ranks, label_ranks, top1
from knots.models.attach import Attached, attach, beside, check_modules
from knots.models.clip import Clip
from knots.models.heads import Heads, build_heads
from knots.prefetching import Waiting
from knots.suites.data import Reading, load_split, prepare
from knots.suites.tasks import Suite

LOGIT_SCALE = 100.0
"""Factor on the cosines in the reference's half-precision scoring."""


@dataclass(frozen=True)
class Settings:
    """How a suite is scored.

    Attributes:
        mode: per_task, joint or all.
        protocol: float32 or reference.
        split: which split is scored.
        cache_dir: root of the data caches.
        batch_size: images that go through the tower at once.
        reading: how pictures become what the model takes; None takes them as they are.
    """

    mode: str
    protocol: str
    split: str
    cache_dir: Path
    batch_size: int
    reading: Reading | None = None


HeadsOrMaker = Heads | Callable[[torch.device], Heads] | None
"""Class features, or what embeds them on a device; None embeds them from the suite's prompts."""


class SuiteEvaluation(L.LightningModule):
    """Scores one predictor on every task of a suite; `result` holds the outcome after the test.

    Attributes:
        result: set on every process at the end of the test.
    """

    def __init__(
        self,
        clip: Clip,
        suite: Suite,
        predictor: Predictor,
        settings: Settings,
        heads: HeadsOrMaker = None,
    ) -> None:
        super().__init__()
        self.clip = clip
        self.suite = suite
        self.predictor = predictor
        self.settings = settings
        self._make_heads = heads
        self.heads: Heads | None = heads if isinstance(heads, Heads) else None
        self.result: EvaluationResult | None = None
        self._plan: Plan = ()
        self._active: tuple[Adapter, ...] = ()
        self._attached: Attached | None = None
        self._loaders: list[ShardedBatches] = []
        self._waiting = Waiting()
        self._started = 0.0

    def prepare_data(self) -> None:
        """Fill the data cache, once a machine; one task's failure leaves the others' data in the cache."""
        settings = self.settings
        splits = [(task, settings.split) for task in self.suite.image_tasks]
        prepare(splits, settings.cache_dir, settings.reading or Reading())

    def setup(self, stage: str) -> None:
        """Merge and embed the classes on the trainer's device; open this process's data."""
        del stage
        device = self.trainer.strategy.root_device
        self.clip.to(device)
        self._plan = self.predictor.plan(self.suite.task_names, device)
        for adapters in set(self._plan):
            for adapter in adapters:
                check_modules(self.clip.tower, adapter)
        self.heads = self._embedded(device).to(device)
        settings = self.settings
        splits = [
            load_split(task, settings.split, settings.cache_dir, settings.reading)
            for task in self.suite.image_tasks
        ]
        copies = max(len(adapters) for adapters in self._plan)
        # T copies of every image go through the tower, so a batch holds fewer images.
        items = max(1, self.settings.batch_size // max(1, copies))
        self._waiting = Waiting()
        self._loaders = sharded_loaders(
            splits,
            items,
            self.trainer.global_rank,
            self.trainer.world_size,
            pinned=device.type == "cuda",
            waiting=self._waiting,
        )
        self.task_counts = TaskCounts(len(splits))
        self.joint_counts = JointCounts(self.heads.labels.belongs)
        self.item_table = ItemTable([len(split) for split in splits])

    def _embedded(self, device: torch.device) -> Heads:
        if self.heads is not None:
            return self.heads
        return self._make_heads(device) if callable(self._make_heads) else build_heads(self.clip, self.suite)

    def test_dataloader(self) -> list[ShardedBatches]:
        """One dataloader a task, with this process's share of its items."""
        return self._loaders

    def on_test_epoch_start(self) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score one batch of one task.

        Nothing is exchanged between processes here, and nothing is read back from the device, so that a GPU
        has its next work before it ends the last. Lightning has sent the batch without waiting for it.
        """
        del batch_idx, dataloader_idx
        assert self.heads is not None
        self._activate(self._plan[batch.task])
        joint_labels = self.heads.labels.local_to_joint[batch.task][batch.labels]
        nothing = torch.full_like(batch.labels, NO_PREDICTION)
        prediction, joint_prediction, joint_rank = nothing, nothing, nothing
        own, joint = self._score(batch.images, batch.task)
        if own is not None:
            prediction = top1(own)
            self.task_counts.update(batch.task, batch.labels, prediction)
        if joint is not None:
            joint_prediction, joint_rank = top1(joint), label_ranks(joint, joint_labels)
            dedup_rank = group_ranks(joint, joint_labels, self.heads.labels.name_groups)
            self.joint_counts.update(batch.task, joint_prediction, joint_rank, dedup_rank)
        columns = (batch.labels, prediction, joint_labels, joint_prediction, joint_rank)
        self.item_table.update(batch.task, batch.items, columns)

    def on_test_epoch_end(self) -> None:
        """Stop the clock, add up over the processes and keep the result on each of them."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - self._started
        images = sum(len(loader.arrays) for loader in self._loaders)
        self.result = self._summarize(Speed(images, seconds, self._waiting.seconds))

    def restore(self) -> None:
        """Give the base its own weights back."""
        if self._attached is not None:
            self._attached.restore()
        self._attached, self._active = None, ()

    def _activate(self, adapters: tuple[Adapter, ...]) -> None:
        if adapters == self._active:
            return
        self.restore()
        if len(adapters) == 1:
            self._attached = attach(self.clip.tower, adapters[0])
        elif adapters:
            self._attached = beside(self.clip.tower, adapters)
        self._active = adapters

    def _score(self, images: Tensor, task: int) -> tuple[Tensor | None, Tensor | None]:
        """Scores [B, C_t] among the task's own classes and [B, C] among all; None where not asked for."""
        assert self.heads is not None
        own, joint = None, None
        wants_own, wants_joint = self.settings.mode != "joint", self.settings.mode != "per_task"
        if wants_joint or not self._half:
            with exact_float32(self.device):
                features = self._features(images)
                joint = class_scores(features, self.heads.joint) if wants_joint else None
                own = class_scores(features, self.heads.tasks[task]) if wants_own else None
        if wants_own and self._half:
            with torch.autocast(self.device.type, dtype=torch.float16):
                own = class_scores(self._features(images), LOGIT_SCALE * self.heads.tasks[task])
        return own, joint

    @property
    def _half(self) -> bool:
        """Whether the tasks' own classes are scored in half precision."""
        return self.settings.protocol == "reference"

    def _features(self, images: Tensor) -> Tensor:
        """Image features [M, B, D] of the M models that are active, in one pass over M copies."""
        assert self.heads is not None
        copies = max(1, len(self._active))
        if len(images) == 0:
            return self.heads.joint.new_zeros(copies, 0, self.heads.joint.shape[1])
        pixels = self.clip.normalize(images)
        features: Tensor = self.clip(pixels.repeat(copies, 1, 1, 1) if copies > 1 else pixels)
        return features.float().view(copies, len(images), -1)

    def _summarize(self, speed: Speed) -> EvaluationResult:
        assert self.heads is not None
        joint, correct = None, None
        if self.settings.mode != "joint":
            correct = self.task_counts.compute()[1].cpu()
        if self.settings.mode != "per_task":
            joint = joint_result(len(self.heads.labels), [c.cpu() for c in self.joint_counts.compute()])
        notes = []
        if self._half and self.device.type != "cuda":
            notes.append(
                f"tasks were scored in the half precision of the {self.device.type.upper()}, not of a GPU"
            )
        return build_result(
            suite=self.suite,
            kind=self.predictor.kind,
            mode=self.settings.mode,
            protocol=self.settings.protocol,
            split=self.settings.split,
            n=[len(loader.arrays) for loader in self._loaders],
            correct=correct,
            joint=joint,
            rows=self.item_table.compute().cpu(),
            adapter=self._plan[0][0] if isinstance(self.predictor, Merged) else None,
            notes=notes,
            speed=speed,
        )
