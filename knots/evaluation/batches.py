"""Batches of one task for one of several processes, without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from knots.suites.data import ImageArrays


class Batch(NamedTuple):
    """Some items of one task.

    Attributes:
        task: the position of the task in the suite.
        items: int64 [B], the numbers of the items within the split.
        images: uint8 [B, H, W, 3].
        labels: int64 [B], the task's own labels.
    """

    task: int
    items: Tensor
    images: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class ShardedBatches:
    """One process's batches of one task: a dataloader over arrays that need no workers.

    A split is cut into the same batches however many processes there are, and whole batches are
    dealt out in turn. So every item meets the same neighbours, and with them the same rounding, in
    one process as in many; nothing is padded and nothing scored twice. A process that gets no batch
    yields an empty one: Lightning skips the hooks of a loop without batches, and the other
    processes would wait for it forever.

    Attributes:
        arrays: the items of the whole split.
        task: the position of the task in the suite.
        batch_size: items in a batch.
        rank: this process.
        processes: how many there are.
        first: number of batches of the tasks before this one, so that the turn goes on from there.
    """

    arrays: ImageArrays
    task: int
    batch_size: int
    rank: int
    processes: int
    first: int

    def _own(self) -> range:
        """The numbers of this process's batches."""
        start = (self.rank - self.first) % self.processes
        return range(start, batch_count(len(self.arrays), self.batch_size), self.processes)

    def __len__(self) -> int:
        """Number of batches, at least one."""
        return max(1, len(self._own()))

    def __iter__(self) -> Iterator[Batch]:
        own = self._own()
        if not own:
            yield self._slice(0, 0)
        for number in own:
            start = number * self.batch_size
            yield self._slice(start, min(start + self.batch_size, len(self.arrays)))

    def _slice(self, start: int, stop: int) -> Batch:
        # The arrays are mapped read-only; the copies are what PyTorch may own.
        images = torch.from_numpy(np.array(self.arrays.images[start:stop]))
        labels = torch.from_numpy(np.array(self.arrays.labels[start:stop]))
        return Batch(self.task, torch.arange(start, stop), images, labels)


def batch_count(items: int, batch_size: int) -> int:
    """Number of batches that `items` are cut into; the last may be smaller."""
    return -(-items // batch_size)


def sharded_loaders(
    splits: Sequence[ImageArrays], batch_size: int, rank: int, processes: int
) -> list[ShardedBatches]:
    """One dataloader a task for one process."""
    loaders, first = [], 0
    for task, arrays in enumerate(splits):
        loaders.append(ShardedBatches(arrays, task, batch_size, rank, processes, first))
        first += batch_count(len(arrays), batch_size)
    return loaders
