"""TIES-Merging (arXiv 2306.01708): trim small entries, elect a sign, merge the entries that agree.

Trimming needs the k-th smallest magnitude of a task, over one module or over the whole model. It is found
exactly by radix selection on the bits of the floats: the bit pattern of a non-negative float, read as an
integer, grows with the float. One pass counts the upper 16 of the 31 bits, a second one the lower 15 among
the entries that share the upper ones. Nothing is sorted or concatenated, so the memory does not grow with
the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from knots.errors import KnotsError
from knots.rules.base import Census, Reduce, Rule, Session, Site, check_reduce, task_weights
from knots.rules.dare import dare

Elect = Literal["sum", "count"]
DareAfter = Literal["alignment", "trim"]

LOW_BITS = 15
UPPER_BINS = 1 << 16  # the sign bit is always zero, so half of them can be hit
LOWER_BINS = 1 << LOW_BITS

BLOCK = 1 << 20
"""Numbers that are worked on at once: several intermediate results of this size are held, and fit a cache."""


CHOICES = {"trim": ("model", "module"), "elect": get_args(Elect), "dare_after": get_args(DareAfter)}


@dataclass(frozen=True)
class Ties(Rule):
    """Trim, elect, merge.

    With N coordinates of a task and k = N - int(N * density), entries with a magnitude of at least the
    k-th smallest are kept: int(N * density) + 1 of them, the count of the KnOTS reference. Density 1 trims
    nothing. The elected sign is that of the sum over tasks; where the sum cancels exactly the merge is 0.

    The published variants of `elect` and `dare_after` are those of TARA (arXiv 2603.26299), whose code
    elects a positive sign where a count is a tie. Here the sum decides a tie: in KnOTS coordinates the sign
    of a whole row is arbitrary, and so would be the merge.

    Attributes:
        density: fraction kept, 0 < density <= 1.
        reduce: "mean" over the entries that agree with the elected sign (weighted: divided by the sum of
            their task weights), or their "sum".
        trim: "model", one threshold per task over all modules (the KnOTS paper), or "module".
        elect: "sum", the sign of the sum over tasks (the TIES paper), or "count", the sign that most of the
            kept entries have, each counted with its task's weight; a tie is decided by the sum.
        dare_after: DARE drops entries after the "alignment", before anything is trimmed (the KnOTS paper),
            or after the "trim".

    Raises:
        KnotsError: an option is out of range.
    """

    by_entry: ClassVar[bool] = True
    density: float = 1.0
    reduce: Reduce = "mean"
    trim: Literal["model", "module"] = "model"
    elect: Elect = "sum"
    dare_after: DareAfter = "alignment"

    def __post_init__(self) -> None:
        check_reduce("ties", self.reduce)
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                known = ", ".join(map(repr, allowed))
                raise KnotsError(f"rule ties: {name}={getattr(self, name)!r}; allowed: {known}")

    @property
    def drops(self) -> bool:
        """Whether DARE waits for the trimming."""
        return self.dare_after == "trim"

    def begin(self, census: Census) -> Session:
        """Start one merge: two rounds of observation for one threshold over the model, else none."""
        return _TiesSession(self, census)


class _TiesSession(Session):
    def __init__(self, rule: Ties, census: Census) -> None:
        self.rule, self.census = rule, census
        global_trim = rule.trim == "model" and rule.density < 1
        self.selection = (
            RadixSelection(len(census.tasks), _threshold_rank(census.numel, rule.density))
            if global_trim
            else None
        )
        self.rounds = RadixSelection.rounds if global_trim else 0

    def observe(self, site: Site, coords: Tensor) -> None:  # noqa: ARG002
        if self.selection is not None:
            self.selection.count(coords.flatten(1))

    def end_round(self) -> None:
        if self.selection is not None:
            self.selection.end_round()

    def apply(self, site: Site, coords: Tensor) -> Tensor:
        return elect_and_merge(
            coords,
            self._thresholds(coords),
            task_weights(self.census, coords),
            self.rule.reduce,
            elect=self.rule.elect,
            mask=None if self.census.masks is None else self.census.masks(site.module, site.shape),
            drop=self.census.drop,
        )

    def _thresholds(self, coords: Tensor) -> Tensor | None:
        if self.rule.density >= 1 or coords[0].numel() == 0:
            return None
        if self.selection is not None:
            return self.selection.values
        flat = coords.flatten(1)
        return smallest(flat, _threshold_rank(flat.shape[1], self.rule.density))


class RadixSelection:
    """The exact k-th smallest magnitude of each task over coordinates that arrive module by module.

    Show every module to `count`, call `end_round`, and do both once more; then `values` holds the result.

    Args:
        tasks: T.
        rank: k, counted from 1.
    """

    rounds = 2

    def __init__(self, tasks: int, rank: int) -> None:
        self._rank = torch.full((tasks,), rank)
        self._upper: Tensor | None = None  # [T], known after the first round
        self._histogram: Tensor | None = None  # [T, bins]
        self.values: Tensor = torch.empty(0)  # [T], known after the second round

    def count(self, coords: Tensor) -> None:
        """Add coordinates [T, n] to this round's histogram."""
        bins = UPPER_BINS if self._upper is None else LOWER_BINS
        if self._histogram is None:
            self._histogram = torch.zeros(len(coords), bins, dtype=torch.int64, device=coords.device)
        for task, row in enumerate(coords):
            for block in torch.split(row, BLOCK):
                self._histogram[task] += torch.bincount(self._slots(block, task), minlength=bins)

    def _slots(self, numbers: Tensor, task: int) -> Tensor:
        """The bins of this round that the magnitudes of one task's numbers [n] fall into."""
        keys = numbers.float().abs().view(torch.int32)
        upper = keys >> LOW_BITS
        if self._upper is None:
            return upper
        return (keys & (LOWER_BINS - 1))[upper == self._upper[task].to(upper.device)]

    def end_round(self) -> None:
        """Find the bin that holds each task's k-th smallest magnitude."""
        if self._histogram is None:
            return
        below = self._histogram.cpu().cumsum(dim=1)
        self._histogram = None
        chosen = (below < self._rank[:, None]).sum(dim=1)
        if self._upper is None:
            before = below.gather(1, (chosen - 1).clamp(min=0)[:, None])[:, 0]
            self._rank = self._rank - torch.where(chosen > 0, before, 0)
            self._upper = chosen.to(torch.int32)
        else:
            self.values = ((self._upper << LOW_BITS) | chosen.to(torch.int32)).view(torch.float32)


def smallest(coords: Tensor, rank: int) -> Tensor:
    """The `rank`-th smallest magnitude (from 1) of each row of [T, n], as [T]: exact, nothing is sorted."""
    selection = RadixSelection(len(coords), rank)
    for _ in range(RadixSelection.rounds):
        selection.count(coords)
        selection.end_round()
    return selection.values


def elect_and_merge(
    coords: Tensor,
    thresholds: Tensor | None,
    weights: Tensor,
    reduce: Reduce,
    *,
    elect: Elect = "sum",
    mask: Tensor | None = None,
    drop: float = 0.0,
) -> Tensor:
    """Keep entries of at least their task's threshold, elect a sign, merge those that agree.

    Works on some rows at a time, so that beside the coordinates only the merge itself grows with the module.

    Args:
        coords: [T, P, Q].
        thresholds: [T] smallest magnitudes kept, or None to keep all.
        weights: [T] task weights, by whose sum over the agreeing tasks a mean is divided.
        reduce: "mean" or "sum".
        elect: "sum" or "count", of what the sign is elected.
        mask: [T, P, Q] of zeros and ones, on any device: what DARE keeps of the trimmed entries.
        drop: the fraction that the mask drops.

    Returns:
        [P, Q]; 0 where the sum cancels exactly, and with "count" the count as well.
    """
    merged = torch.empty_like(coords[0])
    rows = max(1, BLOCK // max(1, coords[:, :1].numel()))
    for start in range(0, coords.shape[1], rows):
        some = _trimmed(coords[:, start : start + rows], thresholds)
        if mask is not None:
            some = dare(some, mask[:, start : start + rows], drop)
        merged[start : start + rows] = _merge_rows(some, weights, reduce, elect)
    return merged


def _trimmed(coords: Tensor, thresholds: Tensor | None) -> Tensor:
    if thresholds is None:
        return coords
    return torch.where(coords.abs() >= thresholds.to(coords.device)[:, None, None], coords, 0.0)


def _merge_rows(coords: Tensor, weights: Tensor, reduce: Reduce, elect: Elect) -> Tensor:
    """`elect_and_merge` of some rows that are trimmed."""
    sign = coords.sum(dim=0).sign()
    if elect == "count":
        shares = weights.abs() / weights.abs().sum()
        votes = (coords.sign() * shares[:, None, None]).sum(dim=0)
        sign = torch.where(votes.abs() < 1e-6, sign, votes.sign())  # less is a tie, and rounding
    agree = coords * sign > 0
    total = torch.where(agree, coords, 0.0).sum(dim=0)
    if reduce == "sum":
        return total
    divisor = (agree * weights[:, None, None]).sum(dim=0)
    return torch.where(divisor > 0, total / divisor, 0.0)


def _threshold_rank(numel: int, density: float) -> int:
    return numel - int(numel * density)
