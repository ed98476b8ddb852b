"""What a merge does when its adapters change in ways that should, or should not, matter to it.

A probe takes T adapters and what merges them, merges them as they are and changed, and compares. What is
returned is a relative change of the merged update: over the modules the largest of |changed - expected| /
|expected|, Frobenius norms; 0 where nothing changes, about 1e-7 to 1e-5 where only rounding does. DARE's
masks go with task and module names where they are a task's own, and with the order where they are the
reference's.

Shapes: T tasks, O out features, I in features, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from knots.adapters import Adapter
from knots.randomness import named_generator
from knots.updates import LowRank, Update

Merge = Callable[[Sequence[Adapter]], Adapter]

CONDITION = 10.0
"""Condition number of the factor changes: as far from orthogonal as factors of LoRA differ in size."""

SMALL = 1e-6
"""How small the adapter of `small_adapter` is beside the one it is made from."""


def factor_change(adapters: Sequence[Adapter], merge: Merge, *, seed: int = 0) -> float:
    """Change of the merge when every (B, A) becomes (B G, G^-1 A), the same update from other factors.

    G [R, R] is random and general, not orthogonal: with a condition number of 10, another one for every task
    and module, applied in float64. A dense update has no factors and stays.

    Args:
        adapters: T adapters.
        merge: merges them.
        seed: of the factor changes.
    """
    return relative_change(merge([_refactored(adapter, seed) for adapter in adapters]), merge(adapters))


def _refactored(adapter: Adapter, seed: int) -> Adapter:
    def change(module: str, update: Update) -> Update:
        if not isinstance(update, LowRank):
            return update
        generator = named_generator(seed, "factor change", adapter.name, module)
        g = _general(update.rank, generator).to(update.b.device)
        return LowRank((update.b.double() @ g).float(), torch.linalg.solve(g, update.a.double()).float())

    return _with_updates(adapter, change)


def _general(rank: int, generator: torch.Generator) -> Tensor:
    """A random matrix [R, R] in float64 with singular values from 1 / sqrt(10) to sqrt(10)."""
    left, right = (
        torch.linalg.qr(torch.randn(rank, rank, generator=generator, dtype=torch.float64)).Q for _ in range(2)
    )
    half = math.log10(CONDITION) / 2
    values = torch.logspace(-half, half, rank, dtype=torch.float64)
    return torch.mm(left * values, right)


def reordering(adapters: Sequence[Adapter], merge: Merge, *, seed: int = 0) -> float:
    """Change of the merge when the tasks come in another order, drawn by the seed."""
    generator = named_generator(seed, "reordering")
    order = torch.randperm(len(adapters), generator=generator).tolist()
    if order == sorted(order):
        order.reverse()
    return relative_change(merge([adapters[place] for place in order]), merge(adapters))


def scaling(adapters: Sequence[Adapter], merge: Merge) -> float:
    """Distance of the merge of all updates times 2 from 2 times the merge, relative to the latter."""
    return relative_change(merge([_scaled(a, 2.0) for a in adapters]), _scaled(merge(adapters), 2.0))


def one_scaled(adapters: Sequence[Adapter], merge: Merge, *, task: int = 0) -> float:
    """Change of the merge when one task's updates are times 2: how much it follows the longest.

    Args:
        adapters: T adapters.
        merge: merges them.
        task: place of the task.
    """
    changed = [_scaled(a, 2.0) if place == task else a for place, a in enumerate(adapters)]
    return relative_change(merge(changed), merge(adapters))


def zero_adapter(adapters: Sequence[Adapter], merge: Merge) -> float:
    """Change of the merge when an adapter that changes nothing comes in addition.

    Raises:
        KnotsError: the merge refuses it, as `knots.merge` does with every rule: an adapter whose updates are
            all zero was not trained, or not loaded right.
    """
    zero = replace(_scaled(adapters[0], 0.0), name="zero")
    return relative_change(merge([*adapters, zero]), merge(adapters))


def small_adapter(adapters: Sequence[Adapter], merge: Merge) -> float:
    """Change of the merge when the last adapter, a millionth of its size, comes in addition.

    What is left of the zero adapter's question where that one is refused: whether a task that says nothing
    dilutes the others, as in a mean over all tasks.
    """
    return relative_change(merge([*adapters, _scaled(adapters[-1], SMALL)]), merge(adapters))


def twice(adapters: Sequence[Adapter], merge: Merge) -> float:
    """Change of the merge when every adapter is there twice: 0 for a mean, 1 for a sum."""
    return relative_change(merge([*adapters, *adapters]), merge(adapters))


def alone(adapters: Sequence[Adapter], merge: Merge, *, scale: float) -> float:
    """Distance of the merge of one adapter alone from `scale` times it; the largest over the tasks."""
    return max(relative_change(merge([adapter]), _scaled(adapter, scale)) for adapter in adapters)


def repeatable(adapters: Sequence[Adapter], merge: Merge) -> bool:
    """Whether merging the same adapters again gives the same bits."""
    first, second = merge(adapters), merge(adapters)
    return all(torch.equal(u.dense(), second.updates[module].dense()) for module, u in first.updates.items())


def relative_change(changed: Adapter, expected: Adapter) -> float:
    """Largest |changed - expected| / |expected| over modules, Frobenius norms; each is made in its turn.

    Returns:
        Infinity where something changed that is expected to be zero; NaN where a merge holds one.
    """
    changes = []
    for module, update in expected.updates.items():
        own = update.dense(torch.float64)
        other = changed.updates[module].dense(torch.float64).to(own.device)
        distance, size = float(torch.linalg.norm(other - own)), float(torch.linalg.norm(own))
        changes.append(distance / size if size else math.inf if distance else 0.0)
    return math.nan if any(map(math.isnan, changes)) else max(changes, default=0.0)


def _scaled(adapter: Adapter, factor: float) -> Adapter:
    return _with_updates(adapter, lambda _, update: update.scaled(factor))


def _with_updates(adapter: Adapter, change: Callable[[str, Update], Update]) -> Adapter:
    return replace(adapter, updates={module: change(module, u) for module, u in adapter.updates.items()})
