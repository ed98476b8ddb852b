"""What every rule is: a small frozen object that merges the coordinates of T tasks into one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from knots.errors import KnotsError
from knots.rules.dare import Masks

Commutes = Literal["both", "left", "none"]


@dataclass(frozen=True, eq=False)
class Site:
    """One module as a rule sees it.

    Attributes:
        module: its name.
        shape: (P, Q) of the space that the user chose; coordinates may be smaller where the rule commutes
            with orthonormal maps (see `Rule.commutes`), and counts are taken from this shape.
        ranks: the T ranks of the updates.
    """

    module: str
    shape: tuple[int, int]
    ranks: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Census:
    """What a rule may know of the whole merge before it sees coordinates.

    Attributes:
        tasks: the T task names.
        numel: coordinates of one task over all modules (N).
        weights: [T] task weights that already multiply the coordinates, or None for equal weights.
        grams: module name -> [T, I, I] Gram matrices of the module's inputs, where the user gave them.
        space: the space that the user chose.
        masks: DARE's keep masks, for a rule that drops by itself; None where nothing is dropped.
        drop: the fraction that they drop.
    """

    tasks: tuple[str, ...]
    numel: int
    weights: Tensor | None = None
    grams: Callable[[str], Tensor] | None = None
    space: str = "full"
    masks: Masks | None = None
    drop: float = 0.0


class Session:
    """One merge by one rule: `observe` sees every module `rounds` times, then `apply` merges each.

    Attributes:
        rounds: how often every module is observed.
        by_rows: both may be shown some of a module's rows at a time, [T, p, Q] in place of [T, P, Q].
    """

    rounds: int = 0
    by_rows: bool = False

    def observe(self, site: Site, coords: Tensor) -> None:
        """Take statistics from one module's coordinates [T, P, Q]; called once a round and module."""

    def end_round(self) -> None:
        """Close a round, after every module was observed."""

    def apply(self, site: Site, coords: Tensor) -> Tensor:
        """Merge one module's coordinates [T, P, Q] into [P, Q]. The input is never written to."""
        raise NotImplementedError


@dataclass(frozen=True)
class Rule:
    """A rule with its options as fields. A subclass overrides `begin`, or `merge` if it keeps no state.

    Class attributes:
        commutes: with which orthonormal maps the rule commutes: Q_l' merge(x) Q_r = merge(Q_l' x Q_r).
            `both` lets `full` space work on the factors of low-rank updates, `left` on one side of them.
        by_entry: every entry is merged by itself, in about the time that it takes to read the coordinates;
            so a dense merge may be made anew whenever it is read.
        parallel: several threads may observe and apply at the same time, each another module.
    """

    commutes: ClassVar[Commutes] = "none"
    by_entry: ClassVar[bool] = False
    parallel: ClassVar[bool] = True

    @property
    def drops(self) -> bool:
        """Whether the rule itself applies the census' masks; if not, it is shown coordinates under them."""
        return False

    def begin(self, census: Census) -> Session:
        """Start one merge."""
        return _Stateless(self, census)

    def merge(self, site: Site, coords: Tensor, census: Census) -> Tensor:
        """Merge coordinates [T, P, Q] into [P, Q]."""
        raise NotImplementedError


class _Stateless(Session):
    def __init__(self, rule: Rule, census: Census) -> None:
        self.rule, self.census = rule, census

    def apply(self, site: Site, coords: Tensor) -> Tensor:
        return self.rule.merge(site, coords, self.census)


Reduce = Literal["mean", "sum"]


def check_reduce(rule: str, reduce: str) -> None:
    """Raise unless `reduce` is one of the two reductions."""
    if reduce not in ("mean", "sum"):
        raise KnotsError(f"rule {rule}: reduce={reduce!r}; allowed: 'mean', 'sum'")


def task_weights(census: Census, like: Tensor) -> Tensor:
    """The task weights [T] on the device of `like`; ones where none were given."""
    if census.weights is None:
        return torch.ones(len(census.tasks), device=like.device)
    return census.weights.to(like.device)
