"""CKA of what task updates do to the base model's activations, by module (figure 2 of arXiv 2410.19735).

The inputs x of every adapted module come from the base model, on the same items for all tasks. Two kinds of
representations are compared across tasks, both linear in x:

- the update's output dW_i x;
- the shared KnOTS basis V_i' x of [dW_1 ... dW_T] = U S [V_1' ... V_T'], with the singular values removed.
  With them, U being orthonormal, S V_i' x has exactly the CKA of dW_i x.

No output is computed at its full width: R coordinates stand for an update of rank R (`update_maps`).

Shapes: T tasks, B items, N tokens of an item, O out features, I in features, R rank, K kept rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from knots.analysis.cka import Moments
from knots.errors import KnotsError, unknown
from knots.evaluation.passes import Arrays, all_batches, computing_on, features_of, input_leaders
from knots.evaluation.tracing import watching
from knots.linalg import thin_qr
from knots.models.families import Model
from knots.spaces import shared_basis
from knots.updates import LowRank, Update

Maps = Mapping[str, Sequence[Tensor]]
"""Module -> T maps [R_i, I]: representation i of an input x is C_i x, up to an orthonormal map."""

TOKENS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "all": lambda x: x.flatten(0, 1),
    "class": lambda x: x[:, 0],
    "last": lambda x: x[:, -1],
    "mean": lambda x: x.double().mean(dim=1),
}
"""Which rows [n, I] count of inputs [B, N, I]: every token, an item's first or last one, or their mean."""

TOKENS_OF: Mapping[str, tuple[str, ...]] = {
    "vision": ("all", "class", "mean"),
    "language": ("all", "last", "mean"),
}
"""Modality -> keys of `TOKENS`. The class token comes first in a vision transformer."""


@dataclass(frozen=True, eq=False)
class Cka:
    """Both estimates for every pair of tasks, [T, T]; NaN where a representation does not vary."""

    biased: Tensor
    debiased: Tensor


@dataclass(frozen=True, eq=False)
class Similarities:
    """What `measure_cka` found.

    Attributes:
        rows: n, the number of inputs that every module was looked at with.
        panels: name -> module -> CKA.
    """

    rows: int
    panels: Mapping[str, Mapping[str, Cka]]


def update_maps(updates: Sequence[Update]) -> list[Tensor]:
    """Maps [R_i, I] that stand for updates [O, I] of one module: R_B A where B = Q_B R_B, or dW itself."""
    return [thin_qr(u.b)[1] @ u.a.double() if isinstance(u, LowRank) else u.weight for u in updates]


def knots_maps(updates: Sequence[Update], cutoff: float, *, singular_values: bool = False) -> list[Tensor]:
    """Maps [R_i, I] that stand for V_i' [K, I] of updates [O, I] of one module.

    With V_i' = W_i Q_i' and W_i = P_i R_i (thin QR) that is R_i Q_i': no more rows than the update's rank.

    Args:
        updates: T updates [O, I].
        cutoff: directions with a singular value <= cutoff are dropped; absolute, in units of the weights.
        singular_values: keep them: S V_i' instead of V_i'.
    """
    basis = shared_basis(updates, cutoff)
    factors = [(basis.s[:, None] * w if singular_values else w, q) for w, q in basis.right]
    return [thin_qr(w)[1] @ q.T for w, q in factors]


def measure_cka(
    model: Model,
    panels: Mapping[str, Maps],
    data: Sequence[Arrays],
    *,
    tokens: str,
    batch_size: int,
    device: torch.device | str,
    seen: Callable[[int], None] = lambda _: None,
) -> Similarities:
    """CKA between tasks in every module of every panel, from one pass of the base over the items.

    Modules with the very same input (the q, k and v projections) share the sums over it, as all panels do.
    For each input the device holds 8 d^2 bytes for d coordinates: those that the maps of its modules span,
    I at most.

    Args:
        model: the base, in any precision; it is the same afterwards.
        panels: name -> maps of every module.
        data: items, pooled; each task's in turn, or in whatever order.
        tokens: a key of `TOKENS`.
        batch_size: images that go through the model at once, or tokens; it changes nothing but rounding.
        device: where to compute.
        seen: is told the number of items of every batch that is done.

    Raises:
        KnotsError: unknown `tokens`, no items, too few of them (4 rows are needed), a module takes no part in
            encoding an item, or inputs that are NaN or infinite.
    """
    if tokens not in TOKENS:
        raise unknown("tokens", tokens, TOKENS)
    if not sum(map(len, data)):
        raise KnotsError("there are no items to look at")
    modules = list(dict.fromkeys(module for maps in panels.values() for module in maps))
    with computing_on(model, torch.device(device)), torch.no_grad():
        leaders = input_leaders(model, modules, next(arrays for arrays in data if len(arrays)))
        moments = {
            leader: Moments(_sets(panels, leaders, leader), device)
            for leader in dict.fromkeys(leaders.values())
        }
        _add_all(model, moments, data, TOKENS[tokens], batch_size, seen)
        found = {
            name: {m: _both(moments[leaders[m]], name, m) for m in maps} for name, maps in panels.items()
        }
    return Similarities(next(iter(moments.values())).rows, found)


def _sets(
    panels: Mapping[str, Maps], leaders: Mapping[str, str], leader: str
) -> dict[tuple[str, str], Sequence[Tensor]]:
    """The maps of all modules with one input, by panel and module."""
    return {
        (name, module): found
        for name, maps in panels.items()
        for module, found in maps.items()
        if leaders[module] == leader
    }


def _add_all(
    model: Model,
    moments: Mapping[str, Moments],
    data: Sequence[Arrays],
    choose: Callable[[Tensor], Tensor],
    batch_size: int,
    seen: Callable[[int], None],
) -> None:
    """Add the inputs of all items."""
    items = 0

    def take(module: str, x: Tensor, _: Tensor) -> None:
        moments[module].add(choose(x.reshape(items, -1, x.shape[-1])))

    with watching(model.tower, moments, take):
        for arrays in data:
            for batch in all_batches(model, arrays, batch_size):
                items = len(batch.labels)
                if items:
                    features_of(model, batch)
                    seen(items)


def _both(moments: Moments, panel: str, module: str) -> Cka:
    try:
        return Cka(*(moments.cka((panel, module), debiased=debiased) for debiased in (False, True)))
    except KnotsError as error:
        raise KnotsError(f"module {module!r}: {error}") from error
