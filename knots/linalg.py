"""Thin decompositions in float64, under one roof so that all of the algebra uses the same ones."""

from __future__ import annotations

import torch
from torch import Tensor


def thin_qr(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Q [M, K] with orthonormal columns and R [K, N], in float64, K = min(M, N)."""
    q, r = torch.linalg.qr(matrix.double())
    return q, r


def thin_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U [M, K], s [K] descending and V' [K, N], in float64, K = min(M, N)."""
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u, s, vt


def numerical_rank(s: Tensor, size: int, eps: float = torch.finfo(torch.float32).eps) -> int:
    """How many singular values rise above rounding: s > s_max * size * eps.

    Args:
        s: [K] singular values, descending.
        size: the larger side of the matrix.
        eps: rounding unit of the numbers that the matrix was stored in.
    """
    if s.numel() == 0:
        return 0
    return int((s > s[0] * size * eps).sum())
