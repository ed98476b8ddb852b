"""Linear CKA between representations of the same rows, exact over batches, in one pass.

CKA(K, L) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) for the Gram matrices K = X X' and L = Y Y' of two
representations (arXiv 1905.00414). No n x n matrix is ever formed, and no activations are kept.

Representations here are linear images x_i = C_i u of common coordinates u. With M = sum u u', s = sum u and
the squared norms k_i = |C_i u|^2 of each row:

- biased:   HSIC = |C_i M_c C_j'|^2 with the centred M_c = M - s s' / n;
- debiased: the unbiased estimator (Song et al. 2012; for CKA over batches arXiv 2010.15327) works on Gram
  matrices with a zero diagonal, K~ = K - diag(k):
  n (n - 3) HSIC = tr(K~ L~) + (1'K~1) (1'L~1) / ((n - 1) (n - 2)) - 2 / (n - 2) 1'K~L~1, where
  tr(K~ L~) = |C_i M C_j'|^2 - sum k_i k_j,
  1'K~1 = |C_i s|^2 - sum k_i, and, with (K~1)_row = u' C_i' C_i s - k_i and w_i = C_i' C_i s,
  1'K~L~1 = w_i' M w_j - w_i' sum u k_j - w_j' sum u k_i + sum k_i k_j.

So M, s, sum u k', sum k k' and sum k suffice, all of them sums over rows. Adding one vector to all rows
changes neither estimate; the mean of the first batch is taken off every row, for the sake of rounding.

CKA does not see orthonormal maps: any C_i with C_i' C_i = L_i' L_i stands for a map L_i. All in float64.

Shapes: T representations, B rows of a batch, n rows in all, I features, d coordinates, R rows of a map.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from knots.errors import KnotsError
from knots.linalg import thin_qr, thin_svd

NOISE = 1e-12
"""A representation whose variance is below this share of its squared length does not vary: what is left is
the rounding of float32."""

SPANNED = 1e-10
"""What a map adds to the directions of others is rounding where it is less than this share of its norm."""

CHUNK = 1 << 22
"""Numbers that the images of some rows may take at once (32 MB)."""

LEAST = 4
"""Rows that the debiased estimator needs."""


class Moments:
    """Sums over rows from which the CKA of every pair of T representations follows, for several sets of them.

    Args:
        sets: any name -> T maps C_i [R_i, I]; representation i of a row x is C_i x. Of any precision.
        device: where the rows are; the sums lie there.
    """

    def __init__(self, sets: Mapping[Any, Sequence[Tensor]], device: torch.device | str = "cpu") -> None:
        maps = {name: [c.to(device) for c in found] for name, found in sets.items()}
        self._basis = spanning_rows([c for found in maps.values() for c in found])
        self._maps = {name: [self._in_coordinates(c) for c in found] for name, found in maps.items()}
        size = (self._basis if self._basis is not None else next(iter(maps.values()))[0].T).shape[0]
        self.rows = 0
        self._shift: Tensor | None = None  # [d], the mean of the first batch
        self._sum = torch.zeros(size, dtype=torch.float64, device=device)
        self._square = torch.zeros(size, size, dtype=torch.float64, device=device)
        self._norms = {name: _NormMoments(len(found), self._sum) for name, found in maps.items()}

    def _in_coordinates(self, c: Tensor) -> Tensor:
        """A map [R, I] of rows as one [R, d] of coordinates."""
        return c if self._basis is None else c.double() @ self._basis.T

    def add(self, rows: Tensor) -> None:
        """Add rows x [B, I]."""
        u = rows.double() if self._basis is None else rows.double() @ self._basis.T
        if len(u) == 0:
            return
        if self._shift is None:
            self._shift = u.mean(dim=0)
        u = u - self._shift
        self.rows += len(u)
        self._sum += u.sum(dim=0)
        self._square.addmm_(u.T, u)
        for name, maps in self._maps.items():
            for some in torch.split(u, max(1, CHUNK // max(1, max(len(c) for c in maps)))):
                self._norms[name].add(some, maps)

    def cka(self, name: Hashable, *, debiased: bool) -> Tensor:
        """CKA of every pair of one set, [T, T] on the CPU: symmetric, with ones on its diagonal.

        A representation that does not vary over the rows, as that of a zero update, has no CKA: NaN.
        Debiased values may be a little below 0.

        Raises:
            KnotsError: there are fewer than 4 rows (biased: 2), or rows are NaN or infinite.
        """
        least = LEAST if debiased else 2
        if self.rows < least:
            kind = "debiased" if debiased else "biased"
            raise KnotsError(f"{kind} CKA needs at least {least} rows, got {self.rows}")
        if not bool(torch.isfinite(self._square).all()):
            raise KnotsError("CKA of rows that are NaN or infinite")
        hsic = self._debiased(name) if debiased else self._biased(self._maps[name])
        scale = hsic.diagonal().clamp(min=0).sqrt()
        scale = torch.where(scale > NOISE * self._lengths(name), scale, torch.nan)
        cka = hsic / (scale[:, None] * scale[None, :])
        # Not 1 to the last bit by division; NaN stays.
        return torch.where(torch.eye(len(cka), dtype=torch.bool, device=cka.device), cka.round(), cka).cpu()

    def _lengths(self, name: Hashable) -> Tensor:
        """The sum of |C_i x|^2 over all rows as they came, [T]."""
        assert self._shift is not None
        constant = torch.stack([(c.double() @ self._shift).square().sum() for c in self._maps[name]])
        return self._norms[name].sum + self.rows * constant

    def _biased(self, maps: Sequence[Tensor]) -> Tensor:
        centred = self._square - torch.outer(self._sum, self._sum) / self.rows
        return _squared_products(maps, centred)

    def _debiased(self, name: Hashable) -> Tensor:
        """The unbiased HSIC of every pair, [T, T], times n (n - 3)."""
        maps, norms, n = self._maps[name], self._norms[name], self.rows
        images = [c.double() @ self._sum for c in maps]
        trace = _squared_products(maps, self._square) - norms.square
        totals = torch.stack([image.square().sum() for image in images]) - norms.sum
        back = torch.stack([c.double().T @ image for c, image in zip(maps, images, strict=True)], dim=1)
        mixed = back.T @ norms.cross
        inner = back.T @ self._square @ back - mixed - mixed.T + norms.square
        return trace + torch.outer(totals, totals) / ((n - 1) * (n - 2)) - 2 / (n - 2) * inner


class _NormMoments:
    """Sums over rows with the squared norms k [T] of their images: k, k k', and u k'."""

    def __init__(self, tasks: int, like: Tensor) -> None:
        self.sum = like.new_zeros(tasks)
        self.square = like.new_zeros(tasks, tasks)
        self.cross = like.new_zeros(len(like), tasks)

    def add(self, u: Tensor, maps: Sequence[Tensor]) -> None:
        """Add rows of coordinates [B, d]."""
        k = torch.stack([(u @ c.double().T).square().sum(dim=1) for c in maps], dim=1)
        self.sum += k.sum(dim=0)
        self.square.addmm_(k.T, k)
        self.cross.addmm_(u.T, k)


def _squared_products(maps: Sequence[Tensor], middle: Tensor) -> Tensor:
    """|C_i M C_j'|^2 of every pair, [T, T], for a symmetric M [d, d]."""
    found = middle.new_zeros(len(maps), len(maps))
    for i, left in enumerate(maps):
        product = left.double() @ middle
        for j, right in enumerate(maps[: i + 1]):
            found[i, j] = found[j, i] = (product @ right.double().T).square().sum()
    return found


def spanning_rows(maps: Sequence[Tensor]) -> Tensor | None:
    """Orthonormal rows [d, I] through which all of some maps [R, I] go; None where that saves nothing.

    For T updates of rank R, d is at most T * R: the coordinates of a row of 4,096 features under six rank-16
    updates are 96 numbers.
    """
    width = maps[0].shape[1]
    if any(len(c) >= width for c in maps):
        return None
    basis = maps[0].new_zeros(0, width, dtype=torch.float64)
    for c in maps:
        norm = c.double().norm()
        if norm == 0:
            continue
        rest = _apart(_apart(c.double() / norm, basis), basis)
        _, s, vt = thin_svd(rest)
        # What is left of a map that is nearly spanned is known to few digits: apart from the basis once more.
        fresh, _ = thin_qr(_apart(vt[: int((s > SPANNED).sum())], basis).T)
        basis = torch.cat([basis, fresh.T])
        if len(basis) >= width:
            return None
    return basis


def _apart(rows: Tensor, basis: Tensor) -> Tensor:
    """Rows [R, I] less their parts along orthonormal rows [d, I]."""
    return rows - (rows @ basis.T) @ basis


def linear_cka(batches: Iterable[Sequence[Tensor]], *, debiased: bool) -> Tensor:
    """Linear CKA of every pair of T representations that come in batches.

    Args:
        batches: of each T tensors [B, P_i], row by row the same items; widths P_i are those of the first.
        debiased: the estimator that does not grow with width over rows.

    Returns:
        [T, T]; NaN for a representation that does not vary.

    Raises:
        KnotsError: no batch, too few rows, or rows that are NaN or infinite.
    """
    moments = None
    for batch in batches:
        if moments is None:
            widths = [part.shape[1] for part in batch]
            chosen = torch.eye(sum(widths), dtype=torch.float64, device=batch[0].device)
            moments = Moments({"": torch.split(chosen, widths)}, batch[0].device)
        moments.add(torch.cat([part.double() for part in batch], dim=1))
    if moments is None:
        raise KnotsError("CKA of no batches")
    return moments.cka("", debiased=debiased)
