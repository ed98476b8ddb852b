"""RegMean (arXiv 2212.09849): the least-squares merge of linear modules on their own inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from knots.errors import KnotsError
from knots.rules.base import Census, Commutes, Rule, Session, Site, task_weights


@dataclass(frozen=True)
class RegMean(Rule):
    """dW = (sum_i dW_i G_i) (sum_i G_i)^-1 with G_i = X_i' X_i / tokens of the module's inputs on task i.

    Task weights w_i make it (sum_i w_i dW_i G_i) (sum_i w_i G_i)^-1.
    It acts on the in-features alone, so it gives the same merge in `full` and in `knots` space; in a space
    that changes the in-features the Gram matrices do not fit.

    Attributes:
        off_diagonal: factor on the off-diagonal entries of every G_i, 0 <= off_diagonal <= 1.
        ridge: added to the diagonal of the sum, as a fraction of its mean.
    """

    commutes: ClassVar[Commutes] = "left"
    off_diagonal: float = 1.0
    ridge: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 <= self.off_diagonal <= 1:
            raise KnotsError(f"rule regmean: off_diagonal={self.off_diagonal}; allowed: 0 to 1")
        if not self.ridge >= 0:
            raise KnotsError(f"rule regmean: ridge={self.ridge}; allowed: 0 or more")

    def begin(self, census: Census) -> Session:
        """Start one merge.

        Raises:
            KnotsError: the space changes the in-features, or the merge was given no Gram matrices.
        """
        if census.space not in ("full", "knots"):
            raise KnotsError(f"rule regmean works in space 'full' or 'knots', not in {census.space!r}")
        if census.grams is None:
            raise KnotsError(
                "rule regmean needs grams: the Gram matrix of every module's inputs on each task"
            )
        return super().begin(census)

    def merge(self, site: Site, coords: Tensor, census: Census) -> Tensor:
        """[T, P, I] -> [P, I], solved in float64.

        Raises:
            KnotsError: the Gram matrices are not [T, I, I].
        """
        assert census.grams is not None  # `begin` refused otherwise
        grams = census.grams(site.module).to(coords.device, torch.float64)
        expected = (len(coords), coords.shape[2], coords.shape[2])
        if tuple(grams.shape) != expected:
            raise KnotsError(
                f"rule regmean: grams of module {site.module!r} have shape {tuple(grams.shape)}, the "
                f"coordinates need {expected}"
            )
        own = grams.diagonal(dim1=1, dim2=2)
        grams = self.off_diagonal * grams
        # As a sum with a matrix of the diagonals alone, of which T I^2 numbers would be zero.
        grams.diagonal(dim1=1, dim2=2).add_((1 - self.off_diagonal) * own)
        # The coordinates hold the task weights already.
        total = torch.einsum("t,tij->ij", task_weights(census, coords).double(), grams)
        total.diagonal().add_(self.ridge * total.diagonal().mean())
        numerator = (coords.double() @ grams).sum(dim=0)
        solution: Tensor = torch.linalg.solve(total, numerator.T)
        return solution.T.float()
