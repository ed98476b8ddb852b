"""Sizes, ranks and angles of task updates, by module and over the model, without multiplying them out.

Everything follows from each update's thin SVD dW_i = U_i diag(s_i) V_i', for a low-rank update that of
a matrix [R, R]:

- Frobenius norm: |s|;
- effective rank: exp of the entropy of s / sum s (Roy & Vetterli 2007); between 1 and the rank;
- stable rank: |s|^2 / max(s)^2;
- cosine of two updates: tr(dW_i' dW_j) / (|dW_i| |dW_j|), with tr(dW_i' dW_j) = sum over pairs a, b of
  singular vectors of s_ia (U_i'U_j)_ab s_jb (V_i'V_j)_ab;
- overlap of column spaces: |U_i'U_j|^2 / min(r_i, r_j), the mean squared cosine of their principal angles; of
  row spaces likewise with V. Two random r-dimensional subspaces of a d-dimensional space have r / d. Updates
  of full rank span everything, so that their overlap is 1 and says nothing.

Directions count up to the numerical rank r: singular values above max(s) * max(O, I) * eps of float32.

Shapes: T tasks, O out features, I in features, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from knots.linalg import thin_svd
from knots.updates import Dense, Update, update_svd

Svd = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Geometry:
    """Of the T updates of one module, or of a whole model; in float64 on the CPU.

    Attributes:
        norms: Frobenius norms [T].
        ranks: numerical ranks [T]; over a model their mean over modules.
        effective: effective ranks [T], NaN for a zero update; over a model the mean over the other modules.
        stable: stable ranks [T], likewise.
        inner: tr(dW_i' dW_j) [T, T], sums over modules.
        columns: overlap of column spaces [T, T], NaN with a zero update; over a model the mean over modules.
        rows: of row spaces, likewise.
    """

    norms: Tensor
    ranks: Tensor
    effective: Tensor
    stable: Tensor
    inner: Tensor
    columns: Tensor
    rows: Tensor

    @property
    def cosines(self) -> Tensor:
        """Cosines of the updates as vectors, [T, T]; NaN with a zero update."""
        return self.inner / (self.norms[:, None] * self.norms[None, :])


def module_geometry(updates: Sequence[Update]) -> Geometry:
    """The geometry of the T updates [O, I] of one module."""
    found = [_truncated_svd(update) for update in updates]
    values = [s for _, s, _ in found]
    squares = torch.stack([s.square().sum() for s in values])
    largest = torch.stack([s.max() if len(s) else s.sum() for s in values])
    inner, columns, rows = _angles(found)
    return Geometry(
        norms=squares.sqrt().cpu(),
        ranks=torch.tensor([float(len(s)) for s in values], dtype=torch.float64),
        effective=torch.stack([_effective_rank(s) for s in values]).cpu(),
        stable=(squares / largest.square()).cpu(),
        inner=inner.cpu(),
        columns=columns.cpu(),
        rows=rows.cpu(),
    )


def model_geometry(modules: Mapping[str, Geometry]) -> Geometry:
    """The geometry of a whole model: norms and inner products over all modules, means of the rest."""
    parts = list(modules.values())

    def mean(name: str) -> Tensor:
        return torch.stack([getattr(part, name) for part in parts]).nanmean(dim=0)

    return Geometry(
        norms=torch.stack([part.norms for part in parts]).square().sum(dim=0).sqrt(),
        inner=torch.stack([part.inner for part in parts]).sum(dim=0),
        **{name: mean(name) for name in ("ranks", "effective", "stable", "columns", "rows")},
    )


def _truncated_svd(update: Update) -> Svd:
    """U [O, r], s [r], V' [r, I] up to the numerical rank r."""
    u, s, vt = thin_svd(update.weight) if isinstance(update, Dense) else update_svd(update)
    smallest = max(update.shape) * torch.finfo(torch.float32).eps
    kept = int((s > smallest * s[:1]).sum()) if len(s) else 0
    return u[:, :kept], s[:kept], vt[:kept]


def _effective_rank(s: Tensor) -> Tensor:
    if not len(s):
        return s.new_tensor(torch.nan)
    share = s / s.sum()
    return torch.exp(-torch.xlogy(share, share).sum())


def _angles(found: Sequence[Svd]) -> tuple[Tensor, Tensor, Tensor]:
    """Inner products, and overlaps of column and of row spaces, each [T, T]."""
    tasks = len(found)
    inner, columns, rows = found[0][1].new_zeros(3, tasks, tasks)
    for i, (u, s, vt) in enumerate(found):
        for j, (other_u, other_s, other_vt) in enumerate(found[: i + 1]):
            left, right = u.T @ other_u, vt @ other_vt.T
            smaller = min(len(s), len(other_s)) or torch.nan
            inner[i, j] = inner[j, i] = s @ (left * right) @ other_s
            columns[i, j] = columns[j, i] = left.square().sum() / smaller
            rows[i, j] = rows[j, i] = right.square().sum() / smaller
    return inner, columns, rows
