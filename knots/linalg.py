"""Thin decompositions in float64, under one roof so that all of the algebra uses the same ones."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from knots.threads import spread


def thin_qr(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Q [M, K] with orthonormal columns and R [K, N], in float64, K = min(M, N)."""
    q, r = torch.linalg.qr(matrix.double())
    return q, r


def thin_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U [M, K], s [K] descending and V' [K, N], in float64, K = min(M, N)."""
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u, s, vt


Svd = tuple[Tensor, Tensor, Tensor]
"""U [M, K], s [K] and V' [K, N]."""
Result = TypeVar("Result")
Decomposing = Generator[list[Tensor], list[Svd], Result]
"""Work that stops once, for the SVDs of some small matrices; it is given them on the CPU, and ends."""


def decompose(work: Decomposing[Result]) -> Result:
    """Do such work."""
    return decompose_all([work])[0]


def decompose_all(works: Sequence[Decomposing[Result]]) -> list[Result]:
    """Do such work many times; a GPU is waited for once, when all of the matrices leave it together.

    SVDs of matrices with some hundred rows are faster on a CPU than on a GPU, and there on all cores.
    """
    asked = [next(work) for work in works]
    matrices = [matrix.to("cpu", non_blocking=True) for some in asked for matrix in some]
    for device in {matrix.device for some in asked for matrix in some if matrix.is_cuda}:
        torch.cuda.synchronize(device)
    found = iter(spread(thin_svd, matrices))
    return [_ended(work, [next(found) for _ in some]) for work, some in zip(works, asked, strict=True)]


def _ended(work: Decomposing[Result], decomposed: list[Svd]) -> Result:
    try:
        work.send(decomposed)
    except StopIteration as stop:
        result: Result = stop.value
        return result
    raise RuntimeError("the work asked for matrices twice")


def sent(matrix: Tensor, device: torch.device | str) -> Tensor:
    """A matrix on a device; a GPU gets it beside its other work, and is not waited for."""
    target = torch.device(device)
    if target.type != "cuda" or matrix.is_cuda:
        return matrix.to(target)
    return matrix.contiguous().pin_memory().to(target, non_blocking=True)


KRYLOV_BLOCK = 32
"""Columns by which a Krylov space grows; more of them make products faster and the space less good."""


def leading_basis(
    matrix: Tensor, count: int, *, limit: int, generator: torch.Generator, tolerance: float = 5e-7
) -> Tensor | None:
    """Orthonormal columns [M, K] in float64 whose span holds the best `count` left singular vectors.

    A block Krylov space, W W' applied again and again to a random block, with every column made orthogonal
    to all others (arXiv:1504.05477). It holds the best approximation of a given rank long before it holds
    the singular vectors, and does so without a gap between singular values. Products are in float32, for
    an error in the space counts squared. The space is large enough when one more block lowers the
    approximation's error by no more than `tolerance`, as a fraction of that error.

    Args:
        matrix: W [M, N], M <= N for speed.
        count: how many directions are wanted.
        limit: largest K that is worth it.
        generator: on the CPU, of the columns to begin with.
        tolerance: see above.

    Returns:
        None where `limit` columns are not enough, as for noise, or W is zero.
    """
    largest = matrix.abs().max()
    if not float(largest) > 0:
        return None
    w = (matrix / largest).float()  # squares of what is left neither overflow nor vanish
    total = float(w.double().square().sum())
    block = basis = w.new_empty(len(w), 0)
    images, gram = w.new_empty(w.shape[1], 0), w.new_empty(0, 0, dtype=torch.float64)
    held = 0.0
    while basis.shape[1] + KRYLOV_BLOCK <= limit:
        block = _next_block(basis, block, generator)
        image = w.T @ block
        basis, images = torch.cat([basis, block], dim=1), torch.cat([images, image], dim=1)
        gram = _grown(gram, images, image)
        before, held = held, float(torch.linalg.eigvalsh(gram)[-count:].sum())
        error = max(total - held, 1e-8 * total)
        if basis.shape[1] > count + KRYLOV_BLOCK and held - before <= 2 * tolerance * error:
            return _orthonormal(basis, 0.5)
        block = w @ image
    return None


def _next_block(basis: Tensor, block: Tensor, generator: torch.Generator) -> Tensor:
    """Orthonormal columns that are new to a basis: of a block, and random ones where it has too few.

    It has none at first, and where only its rounding is new: where the columns so far lead no further.
    """
    new = block - basis @ (basis.T @ block)
    if float(new.norm()) <= 1e-5 * float(block.norm()):
        new = new[:, :0]
    new = _orthonormal(new, 1e-12).float()
    random = torch.randn(len(basis), KRYLOV_BLOCK - new.shape[1], generator=generator) / len(basis) ** 0.5
    new = torch.cat([new, random.to(new.device)], dim=1)
    return _orthonormal(new - basis @ (basis.T @ new), 1e-12).float()


def _orthonormal(columns: Tensor, cutoff: float) -> Tensor:
    """Orthonormal columns of the same span, in float64; a fifth of a QR decomposition's time.

    Directions whose squared length is below `cutoff` times the largest are left out.
    """
    exact = columns.double()
    values, vectors = torch.linalg.eigh(exact.T @ exact)
    kept = values > cutoff * values[-1:]
    whitening: Tensor = vectors[:, kept] * values[kept].rsqrt()
    return exact @ whitening


def _grown(gram: Tensor, images: Tensor, image: Tensor) -> Tensor:
    """The Gram matrix of all images from that of all but the last block of them, in float64."""
    products = images.double().T @ image.double()
    side, corner = products[: len(gram)], products[len(gram) :]
    return torch.cat([torch.cat([gram, side], dim=1), torch.cat([side.T, corner], dim=1)])


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
