"""A lesson made of lessons: several tasks of one model, learnt by one adapter at the same time.

Every batch is of one task and says of which, so that its own classes are told apart. The tasks take turns in
rounds, each in a new random order: after any number of rounds all of them had the same share.

Shapes: T tasks, B items, C classes of the batch's task.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from itertools import accumulate, islice
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from knots.finetuning.card import Facts, quoted
from knots.finetuning.lessons import Batch, Lesson, digest_of
from knots.finetuning.plan import FinetuningPlan
from knots.finetuning.towers import Trainable

MULTITASK = "multitask"
"""What the training of several tasks at once is called, and the folder of what it makes."""


class JointLogits(nn.Module):
    """The networks of T tasks, which share the model that is trained."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, task: int, *inputs: Tensor) -> Tensor:
        """Logits [B, C] of a batch of the task with this number."""
        logits: Tensor = self.networks[task](*inputs)
        return logits


class JointLesson:
    """Several tasks at once for one model.

    Args:
        lessons: task -> its own lesson; all of one model, of one modality and by one plan.
        plan: how they are learnt; its seed decides the order of the tasks.
    """

    def __init__(self, lessons: Mapping[str, Lesson], plan: FinetuningPlan) -> None:
        self.lessons, self.plan = dict(lessons), plan
        first = self._first
        self.schedule, self.accumulate, self.before = first.schedule, first.accumulate, first.before
        self.network: nn.Module = JointLogits([lesson.network for lesson in self.lessons.values()])

    @property
    def _first(self) -> Lesson:
        return next(iter(self.lessons.values()))

    @cached_property
    def _content(self) -> str:
        """SHA-256 of what tells the bases and heads of the tasks from others; asked for before training."""
        return digest_of(*(lesson.identity()["base"] for lesson in self.lessons.values()))

    def in_training(self) -> AbstractContextManager[Trainable]:
        """What one task alone would train: it is the same for all of them."""
        return self._first.in_training()

    def batches(self, start: int) -> Iterable[Batch]:
        """The number of a task, and a batch of it, without the first `start` batches of all."""
        return JointBatches(list(self.lessons.values()), self.plan.seed, start)

    def validation(self) -> Any:
        """Every task's validation split, one after the other; each batch with the number of its task."""
        return JointSlices([lesson.validation() for lesson in self.lessons.values()])

    def identity(self) -> dict[str, str]:
        """The parts of every task's lesson."""
        return {
            f"{task} {part}": value
            for task, lesson in self.lessons.items()
            for part, value in lesson.identity().items()
        }

    def facts(self) -> Facts:
        """The tasks, and the items of all of them."""
        facts = {task: lesson.facts() for task, lesson in self.lessons.items()}
        first, count = next(iter(facts.values())), len(facts)
        data = {
            split: "; ".join(f"{task} {fact.data[split]}" for task, fact in facts.items())
            for split in first.data
        }
        return replace(
            first,
            base=f"base and heads of all tasks: SHA-256 `{self._content[:16]}`",
            task=f"one adapter for {count} tasks jointly, each with its own classes: {quoted(facts)}",
            data=data,
            before=f"{first.before}; both are means over the {count} tasks",
        )


def task_order(tasks: int, seed: int) -> Iterator[int]:
    """Numbers of tasks without end, in rounds of all of them, each round in a random order."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 301]))
    while True:
        yield from rng.permutation(tasks).tolist()


class JointBatches(IterableDataset[Batch]):
    """Endless batches of the tasks in turn.

    Args:
        lessons: of the T tasks.
        seed: of the order of the tasks.
        start: number of batches that are passed over; nothing is read for them.
    """

    def __init__(self, lessons: Sequence[Lesson], seed: int, start: int = 0) -> None:
        self.lessons, self.seed, self.start = lessons, seed, start

    def __iter__(self) -> Iterator[Batch]:
        order = task_order(len(self.lessons), self.seed)
        passed = [0] * len(self.lessons)
        for task in islice(order, self.start):
            passed[task] += 1
        batches = [iter(lesson.batches(at)) for lesson, at in zip(self.lessons, passed, strict=True)]
        for task in order:
            yield (task, *next(batches[task]))


class JointSlices(Dataset[Batch]):
    """Datasets of whole batches, one after the other, each batch behind the number of its dataset."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts
        self.ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, number: int) -> Batch:
        task = bisect_right(self.ends, number)
        first = self.ends[task - 1] if task else 0
        return (task, *self.parts[task][number - first])
