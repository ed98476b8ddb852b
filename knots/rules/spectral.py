"""Rules on singular values: TSV, CART, and the isotropic post rule.

All of them commute with orthonormal maps on both sides, so in `full` space they too work on factors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from knots.errors import KnotsError
from knots.linalg import numerical_rank, thin_svd
from knots.rules.base import Census, Commutes, Rule, Site, task_weights
from knots.updates import LowRank, Update, update_svd


@dataclass(frozen=True)
class Tsv(Rule):
    """Task singular vectors (TSV-M, arXiv 2412.00081): keep each task's top triples, decorrelate, recombine.

    Per task the top k = min(R, int(min(P, Q) / T)) singular triples are kept; U* is the orthogonal polar
    factor of [U_1 ... U_T], V* of [V_1 ... V_T], and the merge is U* diag(s_1, ..., s_T) V*'. The bound by
    the task's rank R leaves out null directions, whose basis is arbitrary.
    """

    commutes: ClassVar[Commutes] = "both"

    def merge(self, site: Site, coords: Tensor, census: Census) -> Tensor:  # noqa: ARG002
        """[T, P, Q] -> [P, Q]."""
        share = int(min(site.shape) / len(coords))
        triples = [_top(c, min(rank, share)) for c, rank in zip(coords, site.ranks, strict=True)]
        u, s, v = (torch.cat(parts, dim=-1) for parts in zip(*triples, strict=True))
        return ((_polar(u) * s) @ _polar(v).T).float()


@dataclass(frozen=True)
class Cart(Rule):
    """CART (arXiv 2412.12153): task updates are pruned around their mean instead of around zero.

    The merge is avg + cart_scale * sum over tasks of the top ceil(pruning_rank * min(P, Q)) singular triples
    of (coords_i - avg).

    Attributes:
        pruning_rank: fraction of the full rank kept per task, 0 < pruning_rank <= 1.
        cart_scale: multiplier on the centred parts (beside the merge's own `scale`).
    """

    commutes: ClassVar[Commutes] = "both"
    pruning_rank: float
    cart_scale: float

    def __post_init__(self) -> None:
        if not 0 < self.pruning_rank <= 1:
            raise KnotsError(f"rule cart: pruning_rank={self.pruning_rank}; allowed: 0 < pruning_rank <= 1")

    def merge(self, site: Site, coords: Tensor, census: Census) -> Tensor:
        """[T, P, Q] -> [P, Q]."""
        weights = task_weights(census, coords)
        average = coords.sum(dim=0) / weights.sum()
        count = math.ceil(self.pruning_rank * min(site.shape))
        total = torch.zeros_like(average)
        for centred in coords - weights[:, None, None] * average:
            u, s, v = _top(centred, count)
            total = total + ((u * s) @ v.T).float()
        return average + self.cart_scale * total


def isotropize(update: Update) -> LowRank:
    """Replace every singular value, over the numerical rank, by their mean (Iso-C, arXiv 2502.04959).

    A post rule: it takes a merged update [O, I] and returns one with factors of the numerical rank.
    Lifts are orthonormal, so doing this to the lifted update or to its coordinates is the same.
    """
    u, s, vt = update_svd(update)
    rank = numerical_rank(s, max(update.shape))
    mean = s[:rank].mean() if rank else s.new_zeros(())
    return LowRank((u[:, :rank] * mean).float(), vt[:rank].float())


def _top(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` largest singular triples: u [P, k], s [k], v [Q, k], in float64."""
    u, s, vt = thin_svd(matrix)
    return u[:, :count], s[:count], vt[:count].T


def _polar(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns (or rows): u v' of its SVD."""
    u, _, vt = thin_svd(matrix)
    return u @ vt
