"""Task updates: what fine-tuning added to one linear module, and the algebra on it.

A task update is dW = W_finetuned - W_pretrained, of shape [O, I]. LoRA gives it as two thin factors,
a full fine-tune as a matrix. Nothing here knows of models, files or devices.

Shapes: O out features, I in features, R rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from knots.errors import KnotsError
from knots.linalg import sent, thin_qr, thin_svd


@dataclass(frozen=True, eq=False)
class LowRank:
    """An update held as factors: dW = b @ a, with the adapter's scaling absorbed in `b`.

    Attributes:
        b: [O, R].
        a: [R, I].

    Raises:
        KnotsError: the factors are not matrices, or their inner sizes differ.
    """

    b: Tensor
    a: Tensor

    def __post_init__(self) -> None:
        if self.b.ndim != 2 or self.a.ndim != 2 or self.b.shape[1] != self.a.shape[0]:
            raise KnotsError(
                f"low-rank factors do not fit: b has shape {tuple(self.b.shape)}, a has shape "
                f"{tuple(self.a.shape)}; b must be [O, R] and a [R, I]"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        return self.b.shape[0], self.a.shape[1]

    @property
    def rank(self) -> int:
        """Number of factor columns R; the matrix may have a smaller rank."""
        return self.b.shape[1]

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix dW [O, I], multiplied in `dtype`."""
        return self.b.to(dtype) @ self.a.to(dtype)

    def scaled(self, factor: float) -> LowRank:
        """`factor` times this update."""
        return LowRank(self.b * factor, self.a)

    def to(self, device: torch.device | str) -> LowRank:
        """The same update on `device`."""
        return LowRank(sent(self.b, device), sent(self.a, device))

    def held(self) -> LowRank:
        """This update: its factors are in memory."""
        return self


@dataclass(frozen=True, eq=False)
class Dense:
    """An update held as a matrix: a full fine-tune, or a merge that has no thin factors.

    Attributes:
        weight: [O, I].
    """

    weight: Tensor

    def __post_init__(self) -> None:
        if self.weight.ndim != 2:
            raise KnotsError(f"a dense update must be a matrix [O, I], got shape {tuple(self.weight.shape)}")

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def rank(self) -> int:
        """min(O, I): the rank a matrix of this shape can have, and the one it is saved with."""
        return min(self.shape)

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix dW [O, I] in `dtype`."""
        return self.weight.to(dtype)

    def scaled(self, factor: float) -> Dense:
        """`factor` times this update."""
        return Dense(self.weight * factor)

    def to(self, device: torch.device | str) -> Dense:
        """The same update on `device`."""
        return Dense(sent(self.weight, device))

    def held(self) -> Dense:
        """This update with its matrix in memory, for those who read it more than once."""
        return self


class Deferred(Dense):
    """A dense update whose matrix is computed anew at each reading, so that a whole model's are never held.

    Args:
        shape: (O, I).
        make: gives the matrix [O, I], the same one each time.
    """

    def __init__(self, shape: tuple[int, int], make: Callable[[], Tensor]) -> None:
        object.__setattr__(self, "_shape", shape)
        object.__setattr__(self, "_make", make)

    _shape: tuple[int, int]
    _make: Callable[[], Tensor]

    def __repr__(self) -> str:
        return f"Deferred(shape={self._shape})"

    @property
    def weight(self) -> Tensor:
        """The matrix dW [O, I], computed now."""
        return self._make()

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        return self._shape

    def scaled(self, factor: float) -> Deferred:
        """`factor` times this update."""
        return Deferred(self._shape, lambda: self._make() * factor)

    def to(self, device: torch.device | str) -> Deferred:
        """The same update on `device`; it is computed where it was, and moved."""
        return Deferred(self._shape, lambda: self._make().to(device))

    def held(self) -> Dense:
        """This update with its matrix in memory, for those who read it more than once."""
        return Dense(self._make())


Update = LowRank | Dense


def factor(update: Update) -> LowRank:
    """Write an update as factors: a low-rank one is returned as it is, a dense one gets an identity.

    The identity takes the smaller side, so the rank is min(O, I). Exact: nothing is decomposed.
    """
    if isinstance(update, LowRank):
        return update
    weight = update.weight
    out_features, in_features = update.shape
    if out_features <= in_features:
        return LowRank(torch.eye(out_features, dtype=weight.dtype, device=weight.device), weight)
    return LowRank(weight, torch.eye(in_features, dtype=weight.dtype, device=weight.device))


def update_svd(update: Update) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD of dW in float64, through two QR decompositions where the update is low-rank.

    dW = b @ a = Q_b (R_b R_a') Q_a', so the SVD of an R x R matrix gives the SVD of dW exactly.

    Returns:
        u [O, K], s [K] descending, vt [K, I], with K = min(O, I, R).
    """
    if isinstance(update, Dense) or update.rank >= min(update.shape):
        return thin_svd(update.dense(torch.float64))
    q_b, r_b = thin_qr(update.b)
    q_a, r_a = thin_qr(update.a.T)
    u, s, vt = thin_svd(r_b @ r_a.T)
    return q_b @ u, s, vt @ q_a.T
