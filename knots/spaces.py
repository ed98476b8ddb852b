"""Spaces: changes of coordinates that all tasks share.

`align` writes the T updates of one module in common coordinates [T, P, Q]; `lift` maps merged coordinates
[P, Q] back to an update [O, I]. Low-rank updates are never multiplied out: with [B_1 ... B_T] = Q R_B and
A_i' = Q_i R_i (thin QR), every decomposition below is one of a matrix whose sides are sums of ranks.
All of it runs in float64 on the updates' device and is returned as float32.

| space | coordinates | lift | source |
|---|---|---|---|
| `full` | dW_i [T, O, I] | identity | |
| `knots` | S V_i' [T, K, I] of [dW_1 ... dW_T] = U S [V_1' ... V_T'] | M -> U M | arXiv 2410.19735 |
| `knots_unscaled` | V_i' [T, K, I], the same without S | M -> U S M | "KnOTS" in arXiv 2509.17786 |
| `knots_rows` | U_i S [T, O, K] of the updates stacked by rows | M -> M V' | arXiv 2410.19735, section 5.4 |
| `core` | U_B' dW_i V_A [T, K_B, K_A] | M -> U_B M V_A' | arXiv 2509.17786 |

A linear rule such as `sum` gives the same merge in every one of them.

Shapes: T tasks, O out features, I in features, R rank, K kept rank of the shared basis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from knots.errors import KnotsError
from knots.linalg import Decomposing, decompose, decompose_all, sent, thin_qr
from knots.threads import spread
from knots.updates import Dense, LowRank, Update, factor

ALL = slice(None)


class Read(Protocol):
    """Gives some rows of coordinates [T, P, Q]; all of them by default."""

    def __call__(self, rows: slice = ALL) -> Tensor: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Aligned:
    """One module's updates in shared coordinates.

    Attributes:
        shape: (P, Q), the sides of one task's coordinates in the space that was asked for. `compress`
            reads smaller ones and keeps the shape of the updates here, for rules that count from it.
        read: gives the coordinates [T, P, Q] in float32, or some rows of them. Callers never write into them;
            `full` and the KnOTS bases multiply them out at each call, so that a large model is never held T
            times.
        lift: maps merged coordinates [P, Q] to an update [O, I].
    """

    shape: tuple[int, int]
    read: Read
    lift: Callable[[Tensor], Update]


def align_full(updates: Sequence[Update], cutoff: float) -> Aligned:  # noqa: ARG001 - one signature for all
    """The updates themselves: coordinates dW_i [T, O, I], multiplied out at each reading."""
    return Aligned(updates[0].shape, partial(_multiplied_out, updates), Dense)


def _multiplied_out(updates: Sequence[Update], rows: slice = ALL) -> Tensor:
    """dW_i [T, O, I] or some rows of each, written to their place as they are made."""
    first = _rows_of(updates[0], rows)
    stack = first.new_empty(len(updates), *first.shape)
    stack[0] = first
    for place, update in zip(stack[1:], updates[1:], strict=True):
        place.copy_(_rows_of(update, rows))
    return stack


def _rows_of(update: Update, rows: slice) -> Tensor:
    if isinstance(update, LowRank):
        return LowRank(update.b[rows], update.a).dense()
    return update.dense()[rows]


def align_knots(updates: Sequence[Update], cutoff: float) -> Aligned:
    """The KnOTS basis (arXiv 2410.19735): coordinates S V_i' [T, K, I], lift M -> U M.

    Exact to rounding for low-rank updates. A merge does not depend on the signs of the singular vectors.
    Where singular values coincide the basis itself is arbitrary, hence any element-wise rule in it.

    Args:
        updates: T updates [O, I].
        cutoff: directions with a singular value <= cutoff are dropped; absolute, in units of the weights.
    """
    return decompose(_knots(updates, cutoff))


def _knots(updates: Sequence[Update], cutoff: float) -> Decomposing[Aligned]:
    basis = yield from _shared_basis(updates, cutoff)
    u, read = basis.u.float(), _multiplied([(basis.s[:, None] * w, q_a.T) for w, q_a in basis.right])
    return Aligned((u.shape[1], updates[0].shape[1]), read, lambda m: LowRank(u, m))


def align_knots_unscaled(updates: Sequence[Update], cutoff: float) -> Aligned:
    """The KnOTS basis as Core Space (arXiv 2509.17786) has it: coordinates V_i' [T, K, I], lift M -> U S M.

    The singular values come back after the merge, so an element-wise rule sees every direction at the same
    size, however little of the updates lies in it. A linear rule gives the same merge as in `knots`.

    Args:
        updates: T updates [O, I].
        cutoff: directions with a singular value <= cutoff are dropped; absolute, in units of the weights.
    """
    return decompose(_knots_unscaled(updates, cutoff))


def _knots_unscaled(updates: Sequence[Update], cutoff: float) -> Decomposing[Aligned]:
    basis = yield from _shared_basis(updates, cutoff)
    u, read = (basis.u * basis.s).float(), _multiplied([(w.clone(), q_a.T) for w, q_a in basis.right])
    return Aligned((u.shape[1], updates[0].shape[1]), read, lambda m: LowRank(u, m))


def align_knots_rows(updates: Sequence[Update], cutoff: float) -> Aligned:
    """The updates stacked on top of each other (section 5.4): coordinates U_i S [T, O, K], lift M -> M V'.

    This is `align_knots` of the transposed updates, transposed back.
    """
    return decompose(_knots_rows(updates, cutoff))


def _knots_rows(updates: Sequence[Update], cutoff: float) -> Decomposing[Aligned]:
    basis = yield from _shared_basis([_transposed(u) for u in updates], cutoff)
    # U_i S = Q_i (S W_i)': the factors in the other order.
    read, v = _multiplied([(q_a, (basis.s[:, None] * w).T) for w, q_a in basis.right]), basis.u.float()
    return Aligned((updates[0].shape[0], v.shape[1]), read, lambda m: LowRank(m, v.T))


def align_core(updates: Sequence[Update], cutoff: float) -> Aligned:
    """Core Space (arXiv 2509.17786): coordinates U_B' dW_i V_A [T, K_B, K_A], lift M -> U_B M V_A'.

    U_B are the left singular vectors of [B_1 ... B_T], V_A the right ones of [A_1; ...; A_T]. They are
    singular vectors rather than any orthonormal basis because element-wise rules see the difference, and
    they depend on how each update is split into B and A. No direction is cut off.

    Raises:
        KnotsError: an update is dense: it has no factors.
    """
    return decompose(_core(updates, cutoff))


def _core(updates: Sequence[Update], cutoff: float) -> Decomposing[Aligned]:  # noqa: ARG001 - as the others
    pairs = _low_rank_only(updates, "core")
    sides = [torch.cat([p.b for p in pairs], dim=1), torch.cat([p.a.T for p in pairs], dim=1)]
    # Left singular vectors [O, sum R] and [I, sum R], through QR decompositions.
    (q_b, r_b), (q_a, r_a) = map(thin_qr, sides)
    (u_b, _, _), (u_a, _, _) = yield [r_b, r_a]
    return _two_sided(pairs, q_b @ sent(u_b, q_b.device), q_a @ sent(u_a, q_a.device))


def compress(updates: Sequence[Update]) -> Aligned:
    """Orthonormal coordinates Q_B' dW_i Q_A [T, sum R, sum R] for rules that commute with such maps.

    Any orthonormal basis of the joint column and row spaces serves them, so two thin QR decompositions
    replace all work on O x I matrices, and the merge comes out as factors.

    Raises:
        KnotsError: an update is dense.
    """
    pairs = _low_rank_only(updates, "compressed")
    q_b, _ = thin_qr(torch.cat([p.b for p in pairs], dim=1))
    q_a, _ = thin_qr(torch.cat([p.a.T for p in pairs], dim=1))
    return dataclasses.replace(_two_sided(pairs, q_b, q_a), shape=updates[0].shape)


Align = Callable[[Sequence[Update], float], Aligned]
"""(T updates of one module, cutoff) -> their common coordinates."""

SPACES: dict[str, Align] = {
    "full": align_full,
    "knots": align_knots,
    "knots_unscaled": align_knots_unscaled,
    "knots_rows": align_knots_rows,
    "core": align_core,
}

STEPS: dict[Align, Callable[[Sequence[Update], float], Decomposing[Aligned]]] = {
    align_knots: _knots,
    align_knots_unscaled: _knots_unscaled,
    align_knots_rows: _knots_rows,
    align_core: _core,
}
"""The same in steps, for many modules at once on a GPU."""


def align_modules(
    align: Align, updates: Mapping[str, Sequence[Update]], cutoff: float, device: torch.device | str = "cpu"
) -> dict[str, Aligned]:
    """Align the updates of many modules: on a CPU over its cores, on a GPU with one wait for all of them.

    Args:
        align: of `SPACES`, or another function of one module.
        updates: module -> T updates [O, I].
        cutoff: as of `align_knots`.
        device: where the updates are.
    """
    on_cpu = torch.device(device).type == "cpu"
    if align in STEPS and not on_cpu:
        found = decompose_all([STEPS[align](parts, cutoff) for parts in updates.values()])
    else:
        found = spread(lambda parts: align(parts, cutoff), updates.values(), None if on_cpu else 1)
    return dict(zip(updates, found, strict=True))


@dataclass(frozen=True, eq=False)
class SharedBasis:
    """The thin SVD [dW_1 ... dW_T] = U S [V_1' ... V_T'] with V_i' = W_i Q_i' held as factors; in float64.

    Attributes:
        u: [O, K], orthonormal columns.
        s: [K], descending.
        right: for each task W_i [K, R_i] and Q_i [I, R_i], whose columns are orthonormal.
    """

    u: Tensor
    s: Tensor
    right: Sequence[tuple[Tensor, Tensor]]


def shared_basis(updates: Sequence[Update], cutoff: float) -> SharedBasis:
    """The basis that `align_knots` writes T updates [O, I] of one module in, apart from its singular values.

    [dW_1 ... dW_T] = Q [R_B1 R_1' ... R_BT R_T'] blockdiag(Q_1', ..., Q_T') with orthonormal outer
    factors, so only the middle [sum R, sum R'] matrix is decomposed.

    Args:
        updates: T updates [O, I].
        cutoff: directions with a singular value <= cutoff are dropped; absolute, in units of the weights.
    """
    return decompose(_shared_basis(updates, cutoff))


def _shared_basis(updates: Sequence[Update], cutoff: float) -> Decomposing[SharedBasis]:
    pairs = [factor(u) for u in updates]
    q, r_b = thin_qr(torch.cat([p.b for p in pairs], dim=1))
    right = [thin_qr(p.a.T) for p in pairs]
    left = torch.split(r_b, [p.rank for p in pairs], dim=1)
    middle = torch.cat([b @ r_a.T for b, (_, r_a) in zip(left, right, strict=True)], dim=1)
    ((u, s, vt),) = yield [middle]
    kept = int((s > cutoff).sum())
    u, s, vt = (sent(part, q.device) for part in (u[:, :kept], s[:kept], vt[:kept]))
    slices = torch.split(vt, [q_a.shape[1] for q_a, _ in right], dim=1)
    factors = [(w, q_a) for w, (q_a, _) in zip(slices, right, strict=True)]
    return SharedBasis(q @ u, s, factors)


def _multiplied(factors: Sequence[tuple[Tensor, Tensor]]) -> Read:
    """What reads the products [T, P, Q], in float32, of factors [P, R_i] and [R_i, Q].

    The coordinates are kept as factors and multiplied out at each reading: over all modules they would take
    more memory than the weights themselves (eight rank-16 updates of a 768 x 768 weight: 1.3 times). W_i is
    a copy or a product: a slice would keep the whole of its matrix.
    """

    def read(rows: slice = ALL) -> Tensor:
        left, right = factors[0]
        coords = torch.empty(len(factors), len(left[rows]), right.shape[1], device=left.device)
        for place, (left, right) in zip(coords, factors, strict=True):
            place.copy_(left[rows] @ right)
        return coords

    return read


def _two_sided(pairs: Sequence[LowRank], left: Tensor, right: Tensor) -> Aligned:
    """Coordinates left' dW_i right for orthonormal left [O, P] and right [I, Q]."""
    coords = torch.stack([((left.T @ p.b.double()) @ (p.a.double() @ right)).float() for p in pairs])
    basis, cobasis = left.float(), right.T.float()

    def lift(merged: Tensor) -> Update:
        if merged.shape[0] <= merged.shape[1]:
            return LowRank(basis, merged @ cobasis)
        return LowRank(basis @ merged, cobasis)

    def read(rows: slice = ALL) -> Tensor:
        return coords[:, rows]

    return Aligned((coords.shape[1], coords.shape[2]), read, lift)


def _low_rank_only(updates: Sequence[Update], space: str) -> list[LowRank]:
    pairs = [u for u in updates if isinstance(u, LowRank)]
    if len(pairs) < len(updates):
        raise KnotsError(
            f"space {space!r} works on the factors of low-rank updates, and {len(updates) - len(pairs)} of "
            f"{len(updates)} are dense; use space 'full' or 'knots'"
        )
    return pairs


def _transposed(update: Update) -> Update:
    if isinstance(update, LowRank):
        return LowRank(update.a.T, update.b.T)
    return Dense(update.weight.T)
