"""TIES-Merging (arXiv 2306.01708): trim small entries, elect a sign, merge the entries that agree.

Trimming needs the k-th smallest magnitude of a task, over one module or over the whole model: see
`knots.rules.selection`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from knots.errors import KnotsError
from knots.rules.base import Census, Reduce, Rule, Session, Site, check_reduce, task_weights
from knots.rules.selection import RadixSelection, block_size, smallest

Elect = Literal["sum", "count"]
DareAfter = Literal["alignment", "trim"]

NARROWEST = 1 << 15
"""Entries of a task that are worked on at once, at least: with fewer, calls take longer than what they do."""

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
        # Neither a module's own threshold nor its masks can be told from some of its rows.
        self.by_rows = (global_trim or rule.density >= 1) and census.masks is None

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

    Reads the coordinates once, some entries of all tasks at a time, which stay in the cache for all of the
    steps; beside the coordinates only the merge itself grows with the module. No gradients.

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
    entries = coords.detach().flatten(1)
    merged = torch.empty_like(entries[0])
    width = max(NARROWEST, block_size(coords.device) // len(coords))
    scratch = torch.empty_like(entries[:, :width])
    trim = _trimming(thresholds, coords.device)
    for start in range(0, len(merged), width):
        place = slice(start, start + width)
        some = entries[:, place]
        kept = scratch[:, : some.shape[1]]
        trim(some, kept)
        if mask is not None:
            kept.mul_(mask.flatten(1)[:, place].to(kept.device)).div_(1 - drop)
        merged[place] = _merge_kept(kept, weights, reduce, elect)
    return merged.view_as(coords[0])


Trim = Callable[[Tensor, Tensor], object]
"""Writes entries [T, n] to another tensor, zero where they are below their task's threshold."""


def _trimming(thresholds: Tensor | None, device: torch.device) -> Trim:
    if thresholds is None:
        return lambda entries, kept: kept.copy_(entries)
    if device.type == "cpu":
        return _shrinking(thresholds)
    return _comparing(thresholds.to(device, non_blocking=True))


def _shrinking(thresholds: Tensor) -> Trim:
    """In one pass: hardshrink drops magnitudes up to a number, here the largest one below the threshold."""
    below = torch.nextafter(thresholds, torch.zeros(())).tolist()

    def trim(entries: Tensor, kept: Tensor) -> None:
        for limit, row, target in zip(below, entries, kept, strict=True):
            torch.ops.aten.hardshrink.out(row, limit, out=target)

    return trim


def _comparing(thresholds: Tensor) -> Trim:
    """Without a look at the thresholds, for which a GPU would have to be waited for."""
    return lambda entries, kept: torch.mul(entries, entries.abs() >= thresholds[:, None], out=kept)


def _merge_kept(kept: Tensor, weights: Tensor, reduce: Reduce, elect: Elect) -> Tensor:
    """Merge trimmed entries [T, n], which are overwritten, into [n]."""
    sign = _sum(kept).sign_()
    if elect == "count":
        sign = _counted_sign(kept, weights, sign)
    agreeing = kept.mul_(sign).clamp_min_(0)  # their magnitudes; 0 for the others
    total = _sum(agreeing).mul_(sign)
    if reduce == "sum":
        return total
    divisor = _sum(agreeing.sign_().mul_(weights[:, None]))
    return total.div_(divisor.masked_fill_(divisor == 0, 1.0))


def _sum(entries: Tensor) -> Tensor:
    """The sum [n] over the tasks of [T, n], one after the other.

    The order in which `Tensor.sum` adds depends on where an entry lies in its block, and so would the bits.
    """
    total = entries[0].clone()
    for row in entries[1:]:
        total += row
    return total


def _counted_sign(kept: Tensor, weights: Tensor, sign: Tensor) -> Tensor:
    """The sign [n] of most entries of [T, n], each counted with its task's weight; where they tie `sign`."""
    shares = weights.abs() / weights.abs().sum()
    votes = _sum(kept.sign() * shares[:, None])
    return torch.where(votes.abs() < 1e-6, sign, votes.sign())  # less is a tie, and rounding


def _threshold_rank(numel: int, density: float) -> int:
    return numel - int(numel * density)
