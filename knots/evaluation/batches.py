"""Batches of one task for one of several processes, without padding, read while others are scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from knots.prefetching import Waiting, read_ahead
from knots.suites.data import ImageArrays

AHEAD = 2
"""Batches that are read while one is scored."""


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
    """One process's batches of one task: a dataloader over arrays that are mapped from disk.

    A thread reads the next batches while one is scored. A thread will do, for copying out of a map lets
    other threads run; worker processes would copy every batch once more, through shared memory.

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
        pinned: read into page-locked memory, from which a GPU fetches while it computes.
        ahead: batches that are read while one is scored; 0 reads each when it is asked for.
        waiting: where the time spent waiting for a batch is added up.
    """

    arrays: ImageArrays
    task: int
    batch_size: int
    rank: int
    processes: int
    first: int
    pinned: bool = False
    ahead: int = AHEAD
    waiting: Waiting = field(default_factory=Waiting)

    def _own(self) -> range:
        """The numbers of this process's batches."""
        start = (self.rank - self.first) % self.processes
        return range(start, batch_count(len(self.arrays), self.batch_size), self.processes)

    def __len__(self) -> int:
        """Number of batches, at least one."""
        return max(1, len(self._own()))

    def __iter__(self) -> Iterator[Batch]:
        # A number beyond the last batch reads an empty one.
        own = self._own() or (batch_count(len(self.arrays), self.batch_size),)
        return read_ahead(self._read, own, self.ahead, self.waiting)

    def _read(self, number: int) -> Batch:
        start = min(number * self.batch_size, len(self.arrays))
        stop = min(start + self.batch_size, len(self.arrays))
        images = _copied(self.arrays.images[start:stop], torch.uint8, self.pinned)
        labels = _copied(self.arrays.labels[start:stop], torch.int64, self.pinned)
        return Batch(self.task, torch.arange(start, stop, pin_memory=self.pinned), images, labels)


def _copied(array: npt.NDArray[Any], dtype: torch.dtype, pinned: bool) -> Tensor:
    """A tensor with the numbers of a read-only array, copied once, from the map to where it is sent from."""
    tensor = torch.empty(array.shape, dtype=dtype, pin_memory=pinned)
    np.copyto(tensor.numpy(), array)
    return tensor


def batch_count(items: int, batch_size: int) -> int:
    """Number of batches that `items` are cut into; the last may be smaller."""
    return -(-items // batch_size)


def sharded_loaders(
    splits: Sequence[ImageArrays],
    batch_size: int,
    rank: int,
    processes: int,
    *,
    pinned: bool = False,
    waiting: Waiting | None = None,
) -> list[ShardedBatches]:
    """One dataloader a task for one process; see `ShardedBatches`. They share one count of waiting."""
    loaders, first = [], 0
    waiting = waiting or Waiting()
    for task, arrays in enumerate(splits):
        loaders.append(
            ShardedBatches(arrays, task, batch_size, rank, processes, first, pinned=pinned, waiting=waiting)
        )
        first += batch_count(len(arrays), batch_size)
    return loaders
