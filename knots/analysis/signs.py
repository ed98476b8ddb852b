"""How often task updates disagree in sign, before alignment and after, streamed over a model's modules.

In the coordinates [T, P, Q] of a space (`knots.spaces`) these are counted over all entries of all modules:

- conflict: among entries that are not zero in two tasks or more, the share where the signs that are not zero
  do not all agree. It grows with T: of random signs, 1 - 2^(1 - T) conflict;
- pairwise: for two tasks, among entries that are not zero in both, the share where the signs differ; of
  random signs a half;
- cancelled: 1 - sum |sum_i x_i| / sum sum_i |x_i|, the share of the absolute sum that a plain sum over tasks
  loses.

Once over all entries, and once over those that TIES keeps: of each task's N entries over the whole model the
int(N * density) + 1 largest (arXiv 2306.01708; the others count as zero). Entries up to 1e-7 of a task's
largest in a module are rounding and count as zero, so that a basis with empty places has no signs there.

Shapes: T tasks, P and Q sides of one task's coordinates, N coordinates of a task over all modules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from knots.errors import KnotsError, unknown
from knots.rules.selection import RadixSelection, block_size
from knots.spaces import SPACES, Aligned, align_modules
from knots.updates import Update

ROUNDING = 1e-7
"""Entries up to this share of a task's largest in a module count as zero."""


class SignCounts:
    """Counts over entries [T, n] that arrive one after the other.

    Args:
        tasks: T.
        device: where the entries are.
    """

    def __init__(self, tasks: int, device: torch.device | str = "cpu") -> None:
        numbers = torch.zeros(4, dtype=torch.float64, device=device)
        # Entries of two tasks or more, those in conflict, sum_i |x_i|, |sum_i x_i|.
        self._shared, self._conflicting, self._mass, self._net = numbers
        self._both, self._same = torch.zeros(2, tasks, tasks, dtype=torch.float64, device=device)

    def add(self, entries: Tensor) -> None:
        """Add entries [T, n]; zeros have no sign."""
        signs = entries.sign().double()
        there = signs.abs()
        several = there.sum(dim=0) >= 2
        self._shared += several.sum()
        self._conflicting += (several & (signs.sum(dim=0).abs() < there.sum(dim=0))).sum()
        self._both += there @ there.T
        self._same += signs @ signs.T
        exact = entries.double()
        self._mass += exact.abs().sum()
        self._net += exact.sum(dim=0).abs().sum()

    @property
    def conflict(self) -> float:
        """Share of entries whose signs do not all agree; NaN where no two tasks have an entry in common."""
        return float(self._conflicting / self._shared)

    @property
    def pairwise(self) -> Tensor:
        """Share of entries with other signs for every pair, [T, T] on the CPU; NaN without common entries."""
        rates: Tensor = (self._both - self._same) / 2 / self._both
        return rates.cpu()

    @property
    def cancelled(self) -> float:
        """Share of the absolute sum that cancels between tasks."""
        return float(1 - self._net / self._mass)


@dataclass(frozen=True, eq=False)
class SignConflicts:
    """Disagreement in one space.

    Attributes:
        entries: N.
        every: over all entries.
        trimmed: over those that TIES keeps.
        modules: over all entries of each module.
    """

    entries: int
    every: SignCounts
    trimmed: SignCounts
    modules: Mapping[str, SignCounts]


def sign_conflicts(
    updates: Mapping[str, Sequence[Update]], *, space: str, cutoff: float, density: float
) -> SignConflicts:
    """Disagreement in sign between the T updates of every module.

    Coordinates are read anew in each of three passes, one module at a time: what is held does not grow with
    the model, but for the factors of a shared basis.

    Args:
        updates: module -> T updates [O, I], all on one device.
        space: a key of `knots.spaces.SPACES`.
        cutoff: as of `knots.merge`.
        density: fraction of entries that TIES would keep, 0 < density <= 1.

    Raises:
        KnotsError: an unknown space, a density out of range, no modules, or dense updates in `core`.
    """
    if space not in SPACES:
        raise unknown("space", space, SPACES)
    if not 0 < density <= 1:
        raise KnotsError(f"density={density!r}; allowed: a fraction, 0 < density <= 1")
    if not updates:
        raise KnotsError("there are no updates to look at")
    aligned = align_modules(SPACES[space], updates, cutoff)
    tasks = len(next(iter(updates.values())))
    entries = sum(one.shape[0] * one.shape[1] for one in aligned.values())
    thresholds = _thresholds(list(aligned.values()), tasks, entries - int(entries * density))
    return _counted(aligned, tasks, entries, thresholds)


def _thresholds(aligned: Sequence[Aligned], tasks: int, rank: int) -> Tensor:
    """The `rank`-th smallest magnitude of each task over all modules, [T]; zeros where `rank` is 0."""
    if rank == 0:
        return torch.zeros(tasks)
    selection = RadixSelection(tasks, rank)
    for _ in range(RadixSelection.rounds):
        for one in aligned:
            selection.count(one.read().flatten(1))
        selection.end_round()
    return selection.values


def _counted(aligned: Mapping[str, Aligned], tasks: int, entries: int, thresholds: Tensor) -> SignConflicts:
    counts: list[SignCounts] = []
    modules = {}
    for module, one in aligned.items():
        coords = one.read().flatten(1)
        device = coords.device
        if not counts:
            counts = [SignCounts(tasks, device), SignCounts(tasks, device)]
        modules[module] = SignCounts(tasks, device)
        if coords.shape[1] == 0:
            continue
        zero = ROUNDING * coords.abs().amax(dim=1, keepdim=True)
        limit = thresholds.to(device)[:, None]
        for block in torch.split(coords, block_size(device), dim=1):
            block = torch.where(block.abs() > zero, block, 0.0)
            modules[module].add(block)
            counts[0].add(block)
            counts[1].add(torch.where(block.abs() >= limit, block, 0.0))
    return SignConflicts(entries, counts[0], counts[1], modules)
