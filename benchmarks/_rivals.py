"""What merging is measured against: the published algorithms, plainly written, and what the machine can do.

Shapes: T tasks, O out features, I in features, R rank, K kept rank of the shared basis, N flat length.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from knots.adapters import Adapter
from knots.updates import LowRank

Module = Sequence[LowRank]
"""The T updates of one module."""


def modules_of(adapters: Sequence[Adapter]) -> list[list[LowRank]]:
    """The updates of every module."""
    found = [[adapter.updates[name] for adapter in adapters] for name in adapters[0].updates]
    return [[update for update in parts if isinstance(update, LowRank)] for parts in found]


def dense_alignment(updates: Module, cutoff: float = 1e-5) -> tuple[Tensor, Tensor]:
    """KnOTS as published (arXiv 2410.19735): U [O, K] and S V_i' [T, K, I] by one SVD of [O, T I]."""
    joint = torch.cat([update.dense() for update in updates], dim=1).double()
    u, s, vt = torch.linalg.svd(joint, full_matrices=False)
    kept = s > cutoff
    coords = (s[kept, None] * vt[kept]).float()
    return u[:, kept].float(), torch.stack(coords.chunk(len(updates), dim=1))


def whole_tensor_ties(coords: Tensor, density: float) -> Tensor:
    """TIES [N] of coordinates [T, N], one whole tensor after the other, with torch.kthvalue."""
    count = coords.shape[1] - int(coords.shape[1] * density)
    if count:
        limits = coords.abs().kthvalue(count, dim=1, keepdim=True).values
        coords = torch.where(coords.abs() >= limits, coords, 0.0)
    agree = coords * coords.sum(dim=0).sign() > 0
    total = torch.where(agree, coords, 0.0).sum(dim=0)
    return total / agree.sum(dim=0).clamp(min=1)


def core_space_merge(modules: Iterable[Module], density: float) -> list[tuple[Tensor, Tensor]]:
    """TIES in Core Space (arXiv 2509.17786), as factors: SVDs of [B_1 ... B_T] and of [A_1; ...; A_T]."""
    bases, coords = [], []
    for updates in modules:
        u_b, _, _ = torch.linalg.svd(torch.cat([one.b for one in updates], dim=1), full_matrices=False)
        _, _, v_a = torch.linalg.svd(torch.cat([one.a for one in updates], dim=0), full_matrices=False)
        bases.append((u_b, v_a))
        coords.append(torch.stack([(u_b.T @ one.b) @ (one.a @ v_a.T) for one in updates]))
    merged = whole_tensor_ties(torch.cat([part.flatten(1) for part in coords], dim=1), density)
    parts = merged.split([part[0].numel() for part in coords])
    return [
        (u_b, flat.view_as(part[0]) @ v_a)
        for (u_b, v_a), part, flat in zip(bases, coords, parts, strict=True)
    ]


@dataclass(frozen=True)
class Reference:
    """The dense algorithm's time for all modules, from those that were measured.

    Attributes:
        align: seconds for all modules.
        lift: the same, of the product with U.
        measured: how many modules were.
        modules: how many there are.
    """

    align: float
    lift: float
    measured: int
    modules: int


def reference_seconds(modules: Sequence[Module], budget: float) -> Reference:
    """Run the dense alignment for about `budget` seconds, each shape of module at least once."""
    shapes: dict[tuple[int, int], list[Module]] = {}
    for updates in modules:
        shapes.setdefault(updates[0].shape, []).append(updates)
    spent: dict[tuple[int, int], list[tuple[float, float]]] = {shape: [] for shape in shapes}
    began = time.perf_counter()
    for turn in range(max(map(len, shapes.values()))):
        for shape, group in shapes.items():
            if turn < len(group) and (turn == 0 or time.perf_counter() - began < budget):
                spent[shape].append(_dense_seconds(group[turn]))
    whole = [
        sum(
            len(group) * sum(one[step] for one in spent[shape]) / len(spent[shape])
            for shape, group in shapes.items()
        )
        for step in (0, 1)
    ]
    return Reference(*whole, sum(map(len, spent.values())), len(modules))


def _dense_seconds(updates: Module) -> tuple[float, float]:
    began = time.perf_counter()
    u, coords = dense_alignment(updates)
    aligned = time.perf_counter()
    u @ coords[0]
    return aligned - began, time.perf_counter() - aligned


def distance(ours: Tensor, updates: Module, scale: float, density: float) -> float:
    """Relative Frobenius distance of a merge [O, I] of one module from the published algorithm's."""
    u, coords = dense_alignment(updates)
    expected = scale * u @ whole_tensor_ties(coords.flatten(1), density).view_as(coords[0])
    return float((ours - expected).norm() / expected.norm())


def alignment_flops(modules: Iterable[Module]) -> float:
    """Operations of the decompositions that an alignment in the KnOTS basis needs, after Golub and Van Loan.

    Thin QR of [M, N], M >= N, with its Q: 4 (M N^2 - N^3 / 3). SVD of it with both sides: the fewer of
    14 M N^2 + 8 N^3 and, through a QR, 6 M N^2 + 20 N^3. A product of [M, K] and [K, N]: 2 M K N.
    """
    total = 0.0
    for updates in modules:
        (out_features, in_features), ranks = updates[0].shape, [one.rank for one in updates]
        columns = sum(ranks)
        rows = min(out_features, columns)
        total += _qr_flops(out_features, columns) + sum(_qr_flops(in_features, rank) for rank in ranks)
        total += 2 * rows * sum(rank**2 for rank in ranks) + 2 * out_features * rows**2
        total += min(14 * columns * rows**2 + 8 * rows**3, 6 * columns * rows**2 + 20 * rows**3)
    return total


def _qr_flops(rows: int, columns: int) -> float:
    rows, columns = max(rows, columns), min(rows, columns)
    return 4 * (rows * columns**2 - columns**3 / 3)


def multiplication_rate(device: str, side: int = 1024) -> float:
    """Operations in a second of a product of two matrices in float64: the best of five."""
    one = torch.randn(side, side, dtype=torch.float64, device=device)
    return float(2 * side**3 / min(_seconds(lambda: one @ one, device) for _ in range(6)))


def pass_rates(device: str, tasks: int, numbers: int = 1 << 26) -> dict[str, float]:
    """Numbers of coordinates [T, n] that a pass reads in a second: alone, and where it writes a sum [n]."""
    coords = torch.randn(tasks, numbers // tasks, device=device)
    read = min(_seconds(coords.sum, device) for _ in range(6))
    write = min(_seconds(lambda: coords.sum(dim=0), device) for _ in range(6))
    return {"read": coords.numel() / read, "merge": coords.numel() / write}


def _seconds(step: Callable[[], object], device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began
