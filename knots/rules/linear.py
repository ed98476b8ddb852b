"""Task arithmetic: the sum, or the mean, of the coordinates (arXiv 2212.04089)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from knots.rules.base import Census, Commutes, Reduce, Rule, Site, check_reduce, task_weights


@dataclass(frozen=True)
class Sum(Rule):
    """Add the tasks' coordinates, or average them.

    Linear, so it gives the same merge in every space.

    Attributes:
        reduce: "sum" (task arithmetic) or "mean" (divided by the sum of the task weights).
    """

    commutes: ClassVar[Commutes] = "both"
    by_entry: ClassVar[bool] = True
    reduce: Reduce = "sum"

    def __post_init__(self) -> None:
        check_reduce("sum", self.reduce)

    def merge(self, site: Site, coords: Tensor, census: Census) -> Tensor:  # noqa: ARG002
        """[T, P, Q] -> [P, Q]."""
        total = coords.sum(dim=0)
        return total / task_weights(census, coords).sum() if self.reduce == "mean" else total
