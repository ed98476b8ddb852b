"""Batches of one task for one of several processes, read while others are scored.

A split is cut into batches by its modality: pictures in their own order, all of one size; sentences by their
length, so that little is padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from knots.prefetching import Waiting, read_ahead
from knots.suites.data import ImageArrays
from knots.suites.texts import TextArrays, by_length

AHEAD = 2
"""Batches that are read while one is scored."""


class Batch(NamedTuple):
    """Some items of one task of images.

    Attributes:
        task: the position of the task in the suite.
        items: int64 [B], the numbers of the items within the split.
        images: uint8 [B, H, W, 3].
        labels: int64 [B], the task's own labels.
        route: the task whose adapter they go through, where that was found out; None is their own.
    """

    task: int
    items: Tensor
    images: Tensor
    labels: Tensor
    route: int | None = None


class TextBatch(NamedTuple):
    """Some items of one task of sentences.

    Attributes:
        task: the position of the task in the suite.
        items: int64 [B], the numbers of the items within the split.
        tokens: int64 [B, L], padded on the right.
        lengths: int64 [B].
        labels: int64 [B], the task's own labels.
    """

    task: int
    items: Tensor
    tokens: Tensor
    lengths: Tensor
    labels: Tensor


Kind = TypeVar("Kind", Batch, TextBatch, covariant=True)


class Cut(Protocol[Kind]):
    """A split cut into batches, which do not depend on the number of processes."""

    @property
    def items(self) -> int:
        """Number of items."""

    def __len__(self) -> int:
        """Number of batches."""

    def read(self, number: int) -> Kind:
        """One batch; an empty one for a number beyond the last."""


@dataclass(frozen=True, eq=False)
class ImageCut:
    """Pictures in their own order, equally many a batch; the last may have fewer.

    Attributes:
        arrays: the items of the whole split.
        task: the position of the task in the suite.
        batch_size: items in a batch.
        pinned: read into page-locked memory, from which a GPU fetches while it computes.
    """

    arrays: ImageArrays
    task: int
    batch_size: int
    pinned: bool = False

    @property
    def items(self) -> int:
        """Number of pictures."""
        return len(self.arrays)

    def __len__(self) -> int:
        return -(-len(self.arrays) // self.batch_size)

    def read(self, number: int) -> Batch:
        """Copy one batch out of the map."""
        start = min(number * self.batch_size, len(self.arrays))
        stop = min(start + self.batch_size, len(self.arrays))
        images = copied(self.arrays.images[start:stop], torch.uint8, self.pinned)
        labels = copied(self.arrays.labels[start:stop], torch.int64, self.pinned)
        return Batch(self.task, torch.arange(start, stop, pin_memory=self.pinned), images, labels)


def copied(array: npt.NDArray[Any], dtype: torch.dtype, pinned: bool) -> Tensor:
    """A tensor with the numbers of a read-only array, copied once, from the map to where it is sent from."""
    tensor = torch.empty(array.shape, dtype=dtype, pin_memory=pinned)
    np.copyto(tensor.numpy(), array)
    return tensor


@dataclass(frozen=True, eq=False)
class TextCut:
    """Pairs of sentences by length, the longest first, as many a batch as a number of tokens allows.

    The longest batch comes first, so that memory that does not suffice shows at once.

    Attributes:
        arrays: the items of the whole split.
        task: the position of the task in the suite.
        budget: the most tokens of a batch, padding included; an item that is longer is a batch of its own.
        pad: the token that fills rows up.
        equal: only items of one length share a batch, so that nothing is padded.
        pinned: read into page-locked memory.
    """

    arrays: TextArrays
    task: int
    budget: int
    pad: int
    equal: bool = False
    pinned: bool = False

    @property
    def items(self) -> int:
        """Number of pairs."""
        return len(self.arrays)

    @cached_property
    def numbers(self) -> list[npt.NDArray[np.int64]]:
        """The items of every batch."""
        return by_length(self.arrays.lengths, self.budget, longest_first=True, equal=self.equal)

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, number: int) -> TextBatch:
        """Lay the rows of one batch side by side."""
        items = self.numbers[number] if number < len(self) else np.empty(0, np.int64)
        batch = torch.from_numpy(items), *self.arrays.batch(items, self.pad)
        return TextBatch(self.task, *(part.pin_memory() if self.pinned else part for part in batch))


@dataclass(frozen=True, eq=False)
class ShardedBatches(Generic[Kind]):
    """One process's batches of one task: a dataloader over arrays that are mapped from disk.

    A thread reads the next batches while one is scored. A thread will do, for copying out of a map lets
    other threads run; worker processes would copy every batch once more, through shared memory.

    A split is cut into the same batches however many processes there are, and whole batches are
    dealt out in turn. So every item meets the same neighbours, and with them the same rounding, in
    one process as in many; nothing is scored twice. A process that gets no batch yields an empty one:
    Lightning skips the hooks of a loop without batches, and the other processes would wait for it forever.

    Attributes:
        cut: the batches of the whole split.
        rank: this process.
        processes: how many there are.
        first: number of batches of the tasks before this one, so that the turn goes on from there.
        ahead: batches that are read while one is scored; 0 reads each when it is asked for.
        waiting: where the time spent waiting for a batch is added up.
    """

    cut: Cut[Kind]
    rank: int = 0
    processes: int = 1
    first: int = 0
    ahead: int = AHEAD
    waiting: Waiting = field(default_factory=Waiting)

    def _own(self) -> range:
        """The numbers of this process's batches."""
        start = (self.rank - self.first) % self.processes
        return range(start, len(self.cut), self.processes)

    def __len__(self) -> int:
        """Number of batches, at least one."""
        return max(1, len(self._own()))

    def __iter__(self) -> Iterator[Kind]:
        # A number beyond the last batch reads an empty one.
        return read_ahead(self.cut.read, self._own() or (len(self.cut),), self.ahead, self.waiting)


def sharded_loaders(
    cuts: Sequence[Cut[Kind]], rank: int, processes: int, waiting: Waiting | None = None
) -> list[ShardedBatches[Kind]]:
    """One dataloader a task for one process; see `ShardedBatches`. They share one count of waiting."""
    loaders: list[ShardedBatches[Kind]] = []
    first, waiting = 0, waiting or Waiting()
    for cut in cuts:
        loaders.append(ShardedBatches(cut, rank, processes, first, waiting=waiting))
        first += len(cut)
    return loaders
