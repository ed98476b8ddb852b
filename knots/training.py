"""What the training of bases and of adapters shares: seeds, batches, the schedule, folders."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, ClassVar, TypeVar, get_origin, get_type_hints

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from knots.errors import KnotsError, unknown
from knots.prefetching import read_ahead
from knots.processes import cluster_environment
from knots.suites.texts import TextArrays, by_length

TOKEN_BUDGET = 16_384
"""The most tokens, padding included, of a batch of texts that is only looked at."""


def shuffled(items: int, size: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """Numbers of the items of one batch after the other, each in ascending order, without end.

    Every pass over the items is in a new order; what is left of it below a whole batch is passed over.

    Args:
        items: how many there are.
        size: B; all of them where there are fewer.
        rng: decides the order; it may be drawn from between two batches.
    """
    size = min(size, items)
    while True:
        order = rng.permutation(items)
        for at in range(0, items - size + 1, size):
            yield np.sort(order[at : at + size])


def batch_rng(seed: int) -> np.random.Generator:
    """What decides the batches of a training."""
    return np.random.default_rng(np.random.SeedSequence([seed, 300]))


class Batches(IterableDataset[tuple[Tensor, Tensor]]):
    """Endless random batches of pictures, shifted a little; what a seed decides.

    Pictures that are mapped from disk are read batch by batch.

    Args:
        images: uint8 [N, H, W, 3].
        labels: int64 [N].
        batch_size: B.
        seed: of order and shifts.
        shift: the most pixels by which a whole batch is shifted, either way.
        start: number of batches that are passed over; their random numbers are drawn, no picture is read.
    """

    def __init__(
        self, images: Any, labels: Any, batch_size: int, seed: int, shift: int, start: int = 0
    ) -> None:
        self.images, self.labels = images, labels
        self.batch_size, self.seed, self.shift, self.start = batch_size, seed, shift, start

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen, corner in islice(self._choices(), self.start, None):
            images = torch.from_numpy(np.asarray(self.images[chosen]))
            yield self._shifted(images, corner), torch.from_numpy(np.asarray(self.labels[chosen]))

    def _choices(self) -> Iterator[tuple[Any, tuple[int, int]]]:
        """The numbers of each batch's pictures, and the corner that the shifted ones start at."""
        rng = batch_rng(self.seed)
        for chosen in shuffled(len(self.labels), self.batch_size, rng):
            corner = (0, 0)
            if self.shift:
                down, right = rng.integers(0, 2 * self.shift + 1, 2).tolist()
                corner = (down, right)
            yield chosen, corner

    def _shifted(self, images: Tensor, corner: tuple[int, int]) -> Tensor:
        if self.shift == 0:
            return images
        (down, right), (height, width) = corner, images.shape[1:3]
        padded = F.pad(images.permute(0, 3, 1, 2).float(), [self.shift] * 4, mode="replicate").byte()
        return padded[..., down : down + height, right : right + width].permute(0, 2, 3, 1)


class Slices(Dataset[tuple[Tensor, Tensor]]):
    """A split in its own order, cut into batches that are read when they are asked for.

    Args:
        images: uint8 [N, H, W, 3].
        labels: int64 [N].
        batch_size: B; the last batch may be smaller.
    """

    def __init__(self, images: Any, labels: Any, batch_size: int) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        part = slice(number * self.batch_size, (number + 1) * self.batch_size)
        # The arrays may be mapped read-only; the copies are what PyTorch may own.
        return torch.from_numpy(np.array(self.images[part])), torch.from_numpy(np.array(self.labels[part]))


class TextBatches(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    """Endless random batches of texts: tokens int64 [B, L], their lengths [B] and labels [B].

    Args:
        texts: what is read.
        pad: the token that fills rows up.
        batch_size: B.
        seed: of the order.
        start: number of batches that are passed over.
    """

    def __init__(self, texts: TextArrays, pad: int, batch_size: int, seed: int, start: int = 0) -> None:
        self.texts, self.pad = texts, pad
        self.batch_size, self.seed, self.start = batch_size, seed, start

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        batches = shuffled(len(self.texts), self.batch_size, batch_rng(self.seed))
        for chosen in islice(batches, self.start, None):
            yield self.texts.batch(chosen, self.pad)


class TextSlices(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """A whole split of texts, the shortest first, so that little is padded.

    Args:
        texts: what is read.
        pad: the token that fills rows up.
        budget: the most tokens of a batch, padding included; an item beyond it is a batch of its own.
    """

    def __init__(self, texts: TextArrays, pad: int, budget: int = TOKEN_BUDGET) -> None:
        self.texts, self.pad = texts, pad
        # Lightning wants a batch, also of nothing.
        self.batches = by_length(texts.lengths, budget) or [np.empty(0, np.int64)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.texts.batch(self.batches[number], self.pad)


@dataclass(frozen=True)
class Share:
    """What one of several processes takes of every batch, so that together they make the steps of one.

    Attributes:
        rank: this process, which takes every item whose number leaves this remainder.
        processes: how many there are.
    """

    rank: int = 0
    processes: int = 1

    def of(self, batch: tuple[Any, ...]) -> tuple[Any, ...]:
        """Its part [B / processes, ...] of all tensors [B, ...] of a batch; other things are everybody's."""
        if self.processes == 1:
            return batch
        part = slice(self.rank, None, self.processes)
        return tuple(one[part] if isinstance(one, Tensor) else one for one in batch)


class SharedBatches(IterableDataset[tuple[Any, ...]]):
    """A process's share of every batch of a stream."""

    def __init__(self, batches: Iterable[tuple[Any, ...]], share: Share) -> None:
        self.batches, self.share = batches, share

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return map(self.share.of, self.batches)


class SharedSlices(Dataset[tuple[Any, ...]]):
    """A process's share of every batch of a split; of a small batch it may be nothing."""

    def __init__(self, slices: Any, share: Share) -> None:
        self.slices, self.share = slices, share

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        return self.share.of(self.slices[number])


class ReadAhead(IterableDataset[tuple[Tensor, ...]]):
    """The same batches, read in a background thread while the last ones are in use.

    Args:
        batches: what is read.
        ahead: number of batches that wait.
    """

    def __init__(self, batches: Iterable[tuple[Tensor, ...]], ahead: int = 4) -> None:
        self.batches, self.ahead = batches, ahead

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        batches = iter(self.batches)
        for batch in read_ahead(lambda _: next(batches, None), count(), self.ahead):
            if batch is None:
                return
            yield batch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators (fresh weights and dropout have no other) inside the block only."""
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def build_trainer(steps: int, options: Mapping[str, Any]) -> L.Trainer:
    """A trainer of `steps` optimizer steps that leaves no files; `options` of `lightning.Trainer` win."""
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
    }
    plugins = [cluster_environment(), *options.get("plugins", ())]
    return L.Trainer(max_steps=steps, **{**quiet, **options, "plugins": plugins})


Options = TypeVar("Options")


def parse_options(kind: type[Options], config: Mapping[str, Any], where: str) -> Options:
    """Make a dataclass of options from plain values.

    Raises:
        KnotsError: a key is unknown or absent, or a number is negative or no number.
    """
    hints = get_type_hints(kind)
    known = {key: hint for key, hint in hints.items() if get_origin(hint) is not ClassVar}
    for key in config:
        if key not in known:
            raise unknown(f"key of {where!r}:", str(key), known)
    absent = [key for key in known if key not in config]
    if absent:
        raise KnotsError(f"{where} lacks {', '.join(map(repr, absent))}")
    for key, value in config.items():
        if known[key] not in (int, float):
            continue
        fits = isinstance(value, int if known[key] is int else (int, float)) and not isinstance(value, bool)
        if not (fits and 0 <= value < math.inf):
            name = {int: "a whole number", float: "a number"}[known[key]]
            raise KnotsError(f"{where}.{key} must be {name} that is not negative, got {value!r}")
    return kind(**config)


def cosine_schedule(optimizer: torch.optim.Optimizer, warmup: int, steps: int) -> dict[str, Any]:
    """For a LightningModule's `configure_optimizers`: linear warm-up, then a cosine to zero at `steps`."""
    return _schedule(optimizer, warmup, steps, lambda progress: 0.5 * (1 + math.cos(math.pi * progress)))


def linear_schedule(optimizer: torch.optim.Optimizer, warmup: int, steps: int) -> dict[str, Any]:
    """For a LightningModule's `configure_optimizers`: linear warm-up, then a line to zero at `steps`."""
    return _schedule(optimizer, warmup, steps, lambda progress: 1 - progress)


def _schedule(
    optimizer: torch.optim.Optimizer, warmup: int, steps: int, decay: Callable[[float], float]
) -> dict[str, Any]:
    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return decay(min(1.0, (step - warmup) / max(1, steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


SCHEDULES: Mapping[str, Callable[[torch.optim.Optimizer, int, int], dict[str, Any]]] = {
    "cosine": cosine_schedule,
    "linear": linear_schedule,
}
"""How a learning rate falls after its warm-up."""
