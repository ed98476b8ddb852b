"""The exact rank of an update, and its best approximation of a smaller one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from knots.linalg import leading_basis
from knots.randomness import named_generator
from knots.threads import spread
from knots.updates import Dense, LowRank, Update, update_svd

AT_ONCE = 1 << 24
"""Numbers of the updates that are decomposed side by side; with all that is between, some 50 bytes each."""

KRYLOV_SIDE = 2048
"""From this side on a few leading triples take less time by themselves: 15 s -> 3 s at 4096 on two cores."""


@dataclass(frozen=True, eq=False)
class Shortened:
    """An update at the rank to save it with.

    Attributes:
        update: its rank is 0 where the original is zero.
        cut: squared Frobenius norm of what was cut; 0 where only rounding was.
        total: squared Frobenius norm of the original; only with a maximum rank.
    """

    update: Update
    cut: float = 0.0
    total: float = 0.0


def shorten(update: Update, max_rank: int | None) -> Shortened:
    """Bring an update to its exact rank, or to `max_rank` where that is smaller.

    Nothing is decomposed where a cheap test shows that factors are as thin as they can be, and none shall be
    cut: their numbers stay as they are. A dense update without `max_rank` also stays as it is.
    """
    if isinstance(update, Dense) and max_rank is None:
        return Shortened(update if bool(update.weight.any()) else _zero(update))
    if isinstance(update, LowRank):
        square = full_rank_square(update)
        if square is not None and (max_rank is None or update.rank <= max_rank):
            return Shortened(update, total=square)
    u, s, vt, rest = _decompose(update, max_rank)
    exact = int((s > s[:1] * rounding(min(update.rank, *update.shape))).sum())
    total = float(s.square().sum()) + rest
    kept = exact if max_rank is None else min(exact, max_rank)
    if isinstance(update, LowRank) and kept == update.rank:
        return Shortened(update, total=total)
    root = s[:kept].sqrt()
    short = LowRank((u[:, :kept] * root).float(), (root[:, None] * vt[:kept]).float())
    return Shortened(short, 0.0 if max_rank is None else float(s[kept:].square().sum()) + rest, total)


def shorten_all(
    updates: Mapping[str, Update],
    max_rank: int | None,
    *,
    check: Callable[[str, Update], None] | None = None,
) -> tuple[dict[str, Update], float]:
    """Every update by `shorten`; and the Frobenius norm of all that was cut over that of all updates.

    Several are worked on side by side as long as they are small. One that is computed whenever it is read is
    held only in its turn, and computed again by who reads it next if it stays as it is.

    Args:
        updates: dW [O, I] by module name.
        max_rank: see `shorten`.
        check: called with every module's name and update before it is shortened.
    """

    def one(item: tuple[str, Update]) -> Shortened:
        module, update = item
        held = update.held()
        if check is not None:
            check(module, held)
        part = shorten(held, max_rank)
        return replace(part, update=update) if part.update is held else part

    largest = max(map(_numbers, updates.values()), default=0)
    parts = spread(one, updates.items(), AT_ONCE // (1 + largest))
    cut, total = sum(part.cut for part in parts), sum(part.total for part in parts)
    short = {module: part.update for module, part in zip(updates, parts, strict=True)}
    return short, math.sqrt(cut / total) if total > 0 else 0.0


def _numbers(update: Update) -> int:
    """How many numbers an update has: of its factors, or of the matrix."""
    return update.b.numel() + update.a.numel() if isinstance(update, LowRank) else math.prod(update.shape)


def rounding(rank: int) -> float:
    """Singular values below this fraction of the largest are rounding, for float32 factors of `rank` columns.

    Rounding all entries of b and a moves singular values of b @ a by about eps * sqrt(R) at most, relative to
    the largest; 4 is margin.
    """
    return 4 * math.sqrt(rank) * torch.finfo(torch.float32).eps


def full_rank_square(update: LowRank) -> float | None:
    """The squared Frobenius norm of b @ a if its rank is certainly R; None if it is less, or may be.

    With b'b = L L', the squared singular values of b @ a are the eigenvalues of the R x R matrix L'(aa')L.
    All of them exceed a threshold exactly if that matrix, less the threshold on its diagonal, has a Cholesky
    factor. The threshold is at least 2e-13 of their sum, which float64 resolves. Two thin products and two
    small factorizations: a tenth of the time of the singular vectors.
    """
    if not 0 < update.rank <= min(update.shape):
        return None
    b, a = update.b.double(), update.a.double()
    lower, failed = torch.linalg.cholesky_ex(b.T @ b)
    if int(failed):
        return None
    inner = lower.T @ (a @ a.T) @ lower
    square = float(inner.trace())
    inner.diagonal().sub_(rounding(update.rank) ** 2 * square)
    return None if int(torch.linalg.cholesky_ex(inner).info) else square


def _decompose(update: Update, max_rank: int | None) -> tuple[Tensor, Tensor, Tensor, float]:
    """Singular triples in float64: [O, K], [K] descending, [K, I]; and the squared norm of all others.

    A matrix without thin factors goes through the Gram matrix of its smaller side, in a fraction of an SVD's
    time. It resolves singular values down to 1e-7 of the largest, below float32 rounding; the other side is
    a projection of the matrix, so that their product is exact to float64. Of a large matrix that is to be
    shortened much, only the leading triples are sought.
    """
    if isinstance(update, LowRank) and update.rank < min(update.shape):
        return *update_svd(update), 0.0
    weight = update.dense(torch.float64)
    if weight.shape[0] > weight.shape[1]:
        v, s, ut, rest = _left_leading(weight.T, max_rank)
        return ut.T, s, v.T, rest
    return _left_leading(weight, max_rank)


def _left_leading(weight: Tensor, max_rank: int | None) -> tuple[Tensor, Tensor, Tensor, float]:
    """Triples of a matrix with no more rows than columns: all of them, or of those that matter some more."""
    side = len(weight)
    if max_rank is None or side < KRYLOV_SIDE or max_rank > side // 32:
        return *_left(weight), 0.0
    generator = named_generator(0, "shorten")
    basis = leading_basis(weight, max_rank, limit=side // 4, generator=generator)
    if basis is None:
        return *_left(weight), 0.0
    v, s, ut = _left(basis.T @ weight)
    return basis @ v, s, ut, max(0.0, float(weight.square().sum() - s.square().sum()))


def _left(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    _, vectors = torch.linalg.eigh(weight @ weight.T)
    u = vectors.flip(1)
    projected = u.T @ weight
    s = projected.norm(dim=1)
    return u, s, projected / s.clamp_min(torch.finfo(torch.float64).tiny)[:, None]


def _zero(update: Update) -> LowRank:
    rows, columns = update.shape
    return LowRank(torch.zeros(rows, 0), torch.zeros(0, columns))
