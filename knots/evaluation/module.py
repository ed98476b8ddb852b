"""The Lightning module that scores a suite, whatever it is of; see `images` and `texts` for the two kinds.

It is tested over one dataloader a task. Merging happens in `setup`, on the device that the trainer
will run on; `setup` comes before Lightning moves the module, so it asks the strategy for the device.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import lightning as L
import torch
from torch import Tensor
from torchmetrics import Metric

from knots.adapters import Adapter
from knots.evaluation.batches import Batch, Cut, ShardedBatches, TextBatch, sharded_loaders
from knots.evaluation.metrics import ItemTable, JointCounts, TaskCounts
from knots.evaluation.predictors import Merged, Plan, Predictor
from knots.evaluation.results import Counts, EvaluationResult, Speed, build_result, joint_result
from knots.evaluation.saved import SavedCounts
from knots.evaluation.scores import NO_PREDICTION, group_ranks, label_ranks, top1
from knots.interruption import give_way
from knots.models.attach import Attached, attach, beside, check_modules
from knots.models.families import Model
from knots.prefetching import Waiting
from knots.suites.data import Reading, load_split, prepare
from knots.suites.tasks import JointLabels, Suite
from knots.suites.texts import TextReading

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How a suite is scored.

    Attributes:
        mode: per_task, joint or all.
        protocol: float32 or reference.
        split: which split is scored.
        cache_dir: root of the data caches.
        batch_size: images that go through the model at once; of sentences, tokens, where None is what suits
            the device.
        reading: how items become what the model takes; None takes pictures as they are.
        kept: the folder of what was counted so far, task by task; None keeps nothing.
    """

    mode: str
    protocol: str
    split: str
    cache_dir: Path
    batch_size: int | None
    reading: Reading | TextReading | None = None
    kept: Path | None = None


Kind = TypeVar("Kind", Batch, TextBatch)


class SuiteEvaluation(L.LightningModule, Generic[Kind]):
    """Scores one predictor on every task of a suite; `result` holds the outcome after the test.

    Attributes:
        result: set on every process at the end of the test.
        labels: the union of all tasks' classes, where they can be scored jointly.
    """

    def __init__(self, model: Model, suite: Suite, predictor: Predictor, settings: Settings) -> None:
        super().__init__()
        self.model = model
        self.suite = suite
        self.predictor = predictor
        self.settings = settings
        self.labels: JointLabels | None = None
        self.result: EvaluationResult | None = None
        self._plan: Plan = ()
        self._active: tuple[Adapter, ...] = ()
        self._attached: Attached | None = None
        self._loaders: list[ShardedBatches[Kind]] = []
        self._waiting = Waiting()
        self._started = 0.0
        self._restored = 0

    @abstractmethod
    def prepare_heads(self, device: torch.device) -> None:
        """Put what turns features into scores on `device`; set `labels` where there is a union of classes."""

    @abstractmethod
    def cut(self, arrays: Any, task: int, copies: int, pinned: bool) -> Cut[Kind]:
        """Cut a task's split into batches, of which `copies` go through the model side by side."""

    @abstractmethod
    def score(self, batch: Kind) -> tuple[Tensor | None, Tensor | None]:
        """Scores [B, C_t] among the task's own classes and [B, C] among all; None where not asked for."""

    @abstractmethod
    def speed(self, seconds: float, waiting: float) -> Speed:
        """How fast it went, in the units of the modality."""

    def notes(self) -> Sequence[str]:
        """What a reader of the numbers should know."""
        return ()

    def place_of(self, batch: Kind) -> int:
        """The place in the plan of the adapters that a batch goes through."""
        return batch.task

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are read."""
        return (self.settings.split,)

    @property
    def routed(self) -> Counts | None:
        """[T, T], items of one task that went through another's adapter; None where nothing was routed."""
        return None

    def prepare_data(self) -> None:
        """Fill the data cache, once a machine; one task's failure leaves the others' data in the cache."""
        splits = [(task, split) for split in self.splits for task in self.suite.tasks]
        prepare(splits, self.settings.cache_dir, self.settings.reading or Reading())

    def setup(self, stage: str) -> None:
        """Merge and prepare the heads on the trainer's device; open this process's data."""
        del stage
        device = self.trainer.strategy.root_device
        self.model.to(device)
        self._plan = self.predictor.plan(self.suite.task_names, device)
        for adapters in set(self._plan):
            for adapter in adapters:
                check_modules(self.model.tower, adapter)
        self.prepare_heads(device)
        settings, copies = self.settings, max(len(adapters) for adapters in self._plan)
        cuts = []
        for position, task in enumerate(self.suite.tasks):
            arrays = load_split(task, settings.split, settings.cache_dir, settings.reading)
            cuts.append(self.cut(arrays, position, max(1, copies), device.type == "cuda"))
        self._waiting = Waiting()
        self._loaders = sharded_loaders(
            cuts, self.trainer.global_rank, self.trainer.world_size, self._waiting
        )
        self.task_counts = TaskCounts(len(cuts))
        self.item_table = ItemTable([cut.items for cut in cuts])
        if self.labels is not None:
            self.joint_counts = JointCounts(self.labels.belongs)
        self._restored = self._take_up()

    def _take_up(self) -> int:
        """Take up what an earlier call has counted; the number of tasks that it was done with."""
        if self._saved is None:
            return 0
        # One process decides, for all must skip the same tasks.
        done: int = self.trainer.strategy.broadcast(self._saved.done(len(self._loaders)))
        if done:
            self._saved.restore(done, self._metrics)
            log.info("going on after %s", ", ".join(self.suite.task_names[:done]))
        return done

    @property
    def _saved(self) -> SavedCounts | None:
        """Where counts are kept."""
        if self.settings.kept is None:
            return None
        return SavedCounts(self.settings.kept, self.trainer.global_rank, self.trainer.world_size)

    @property
    def _metrics(self) -> dict[str, Metric]:
        """Everything that counts."""
        counting: dict[str, Metric] = {"tasks": self.task_counts, "items": self.item_table}
        return counting if self.labels is None else {**counting, "joint": self.joint_counts}

    def test_dataloader(self) -> list[ShardedBatches[Kind]]:
        """One dataloader a task that is not done yet, with this process's share of its items."""
        return self._loaders[self._restored :]

    def on_test_epoch_start(self) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_test_batch_start(self, batch: Kind, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Stop here if that was asked for; the tasks before this one are kept."""
        del batch, batch_idx, dataloader_idx
        give_way()

    def on_test_batch_end(self, outputs: Any, batch: Kind, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Keep what was counted, once a task is done."""
        del outputs, dataloader_idx
        done = batch.task + 1
        if batch_idx + 1 == len(self._loaders[batch.task]) and done < len(self._loaders):
            saved = self._saved
            if saved is not None:
                saved.keep(done, self._metrics)

    def test_step(self, batch: Kind, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score one batch of one task.

        Nothing is exchanged between processes here, and nothing is read back from the device, so that a GPU
        has its next work before it ends the last. Lightning has sent the batch without waiting for it.
        """
        del batch_idx, dataloader_idx
        self._activate(self._plan[self.place_of(batch)])
        nothing = torch.full_like(batch.labels, NO_PREDICTION)
        prediction = nothing
        joint: tuple[Tensor, Tensor, Tensor] = (nothing, nothing, nothing)
        own, among_all = self.score(batch)
        if own is not None:
            prediction = top1(own)
            self.task_counts.update(batch.task, batch.labels, prediction)
        if among_all is not None:
            joint = self._rank(batch, among_all)
        self.item_table.update(batch.task, batch.items, (batch.labels, prediction, *joint))

    def _rank(self, batch: Kind, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Joint labels, predictions and ranks [B] of scores [B, C] among all classes."""
        assert self.labels is not None
        labels = self.labels.local_to_joint[batch.task][batch.labels]
        predictions, ranks = top1(scores), label_ranks(scores, labels)
        dedup_ranks = group_ranks(scores, labels, self.labels.name_groups)
        self.joint_counts.update(batch.task, predictions, ranks, dedup_ranks)
        return labels, predictions, ranks

    def on_test_epoch_end(self) -> None:
        """Stop the clock, add up over the processes and keep the result on each of them."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - self._started
        speed = replace(self.speed(seconds, self._waiting.seconds), device=str(self.device))
        self.result = self._summarize(speed)

    def restore(self) -> None:
        """Give the base back as it was."""
        self._detach()

    def _detach(self) -> None:
        """Give the base its own weights back."""
        if self._attached is not None:
            self._attached.restore()
        self._attached, self._active = None, ()

    @property
    def items(self) -> list[int]:
        """Numbers of items of the tasks."""
        return [loader.cut.items for loader in self._loaders]

    @property
    def items_now(self) -> int:
        """Number of items of the tasks that this call scores."""
        return sum(self.items[self._restored :])

    @property
    def active(self) -> tuple[Adapter, ...]:
        """The adapters that stand on the base."""
        return self._active

    def _activate(self, adapters: tuple[Adapter, ...]) -> None:
        if adapters == self._active:
            return
        self._detach()
        if len(adapters) == 1:
            self._attached = attach(self.model.tower, adapters[0])
        elif adapters:
            self._attached = beside(self.model.tower, adapters)
        self._active = adapters

    def _summarize(self, speed: Speed) -> EvaluationResult:
        joint, correct = None, None
        if self.settings.mode != "joint":
            correct = self.task_counts.compute()[1].cpu()
        if self.settings.mode != "per_task":
            assert self.labels is not None
            joint = joint_result(len(self.labels), [c.cpu() for c in self.joint_counts.compute()])
        return build_result(
            suite=self.suite,
            kind=self.predictor.kind,
            mode=self.settings.mode,
            protocol=self.settings.protocol,
            split=self.settings.split,
            n=self.items,
            correct=correct,
            joint=joint,
            rows=self.item_table.compute().cpu(),
            adapter=self._plan[0][0] if isinstance(self.predictor, Merged) else None,
            notes=self.notes(),
            speed=speed,
            routed=self.routed,
        )
