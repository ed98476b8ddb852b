"""Exact selection without sorting: the k-th smallest magnitude of each task, over one module or the model.

The bit pattern of a non-negative float, read as an integer, grows with the float. One pass counts the upper
14 of the 31 bits, a second one the lower 17 among the entries that share the upper ones. Nothing is sorted or
concatenated, so the memory does not grow with the model. One module alone is selected from by the libraries.
"""

from __future__ import annotations

import threading

import numpy as np
import torch
from torch import Tensor

LOW_BITS = 17
UPPER_BINS = 1 << (31 - LOW_BITS)
LOWER_BINS = 1 << LOW_BITS
SPAN = 1 << 7
"""Bins that are added up before one of them is looked for."""
MAGNITUDE = 0x7FFFFFFF
"""All bits but the sign."""

BLOCK = 1 << 18
"""Numbers that are worked on at once on a CPU: what is in between stays in its caches."""
DEVICE_BLOCK = 1 << 25
"""The same on a GPU, which has to be given much at a time."""


def block_size(device: torch.device) -> int:
    """How many numbers are worked on at once."""
    return BLOCK if device.type == "cpu" else DEVICE_BLOCK


def counted_at_once(device: torch.device, tasks: int) -> int:
    """How many of a task's numbers are counted at once: several times as many as there are bins to add."""
    return max(4 * UPPER_BINS, block_size(device) // tasks)


class RadixSelection:
    """The exact k-th smallest magnitude of each task over coordinates that arrive module by module.

    Show every module to `count`, call `end_round`, and do both once more; then `values` holds the result.
    Only `end_round` waits for a GPU. Several threads may call `count` at the same time.

    Args:
        tasks: T.
        rank: k, counted from 1.
    """

    rounds = 2

    def __init__(self, tasks: int, rank: int) -> None:
        self._rank = torch.full((tasks,), rank)
        self._upper: Tensor | None = None  # [T], known after the first round
        self._histogram: Tensor | None = None  # [T, bins]
        self._lock = threading.Lock()
        self.values: Tensor = torch.empty(0)  # [T], on the CPU, known after the second round

    def count(self, coords: Tensor) -> None:
        """Add coordinates [T, n] to this round's histogram."""
        bins = UPPER_BINS if self._upper is None else LOWER_BINS
        with self._lock:
            if self._histogram is None:
                self._histogram = torch.zeros(len(coords), bins, dtype=torch.int64, device=coords.device)
                self._upper = None if self._upper is None else self._upper.to(coords.device)
        add = self._add if coords.device.type == "cpu" else self._add_on_device
        for block in torch.split(coords.detach(), counted_at_once(coords.device, len(coords)), dim=1):
            add(block.float().view(torch.int32).bitwise_and(MAGNITUDE))

    def _add(self, keys: Tensor) -> None:
        """Count the bit patterns [T, n] of magnitudes."""
        assert self._histogram is not None
        tasks, bins = self._histogram.shape
        first = torch.arange(0, tasks * bins, bins, dtype=torch.int32)[:, None]  # every task's first bin
        upper = keys >> LOW_BITS
        if self._upper is None:
            counts = torch.bincount(upper.add_(first).flatten(), minlength=tasks * bins)
            with self._lock:
                self._histogram += counts.view(tasks, bins)
            return
        inside, slots = upper == self._upper[:, None], (keys & (LOWER_BINS - 1)).add_(first)
        # NumPy picks by a mask several times faster than torch.
        picked = torch.from_numpy(slots.numpy()[inside.numpy()])
        ones = torch.ones((), dtype=torch.int64).expand(len(picked))
        with self._lock:
            self._histogram.view(-1).index_add_(0, picked, ones)

    def _add_on_device(self, keys: Tensor) -> None:
        """The same without a look at any number, for which the device would have to be waited for."""
        assert self._histogram is not None
        upper = keys >> LOW_BITS
        if self._upper is None:
            slots, counted = upper, torch.ones_like(upper, dtype=torch.int64)
        else:
            slots, counted = keys & (LOWER_BINS - 1), (upper == self._upper[:, None]).long()
        self._histogram.scatter_add_(1, slots.long(), counted)

    def end_round(self) -> None:
        """Find the bin that holds each task's k-th smallest magnitude."""
        if self._histogram is None:
            return
        chosen, before = _bin_of(self._rank, self._histogram.cpu())
        self._histogram = None
        if self._upper is None:
            self._rank = self._rank - before
            self._upper = chosen.to(torch.int32)
        else:
            upper = self._upper.cpu() << LOW_BITS
            self.values = (upper | chosen.to(torch.int32)).view(torch.float32)


def _bin_of(rank: Tensor, histogram: Tensor) -> tuple[Tensor, Tensor]:
    """The bin [T] that holds the `rank`-th number of each row of counts [T, bins]; how many lie before it.

    Looks among the sums of many bins first, for a running sum of all bins takes ten times as long.
    """
    spans = histogram.view(len(histogram), -1, SPAN)
    span, before = _first_reaching(rank, spans.sum(dim=2))
    within, more = _first_reaching(rank - before, spans[torch.arange(len(spans)), span])
    return span * SPAN + within, before + more


def _first_reaching(rank: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The first place [T] at which the running sum of counts [T, n] reaches `rank`; the sum before it."""
    below = counts.cumsum(dim=1)
    place = (below < rank[:, None]).sum(dim=1)
    return place, (below - counts).gather(1, place[:, None])[:, 0]


def smallest(coords: Tensor, rank: int) -> Tensor:
    """The `rank`-th smallest magnitude (from 1) of each row of [T, n], as [T] on the same device; exact."""
    if coords.device.type != "cpu":
        return coords.abs().kthvalue(rank, dim=1).values
    magnitudes = coords.detach().float().abs().numpy()
    return torch.tensor([float(np.partition(row, rank - 1)[rank - 1]) for row in magnitudes])
