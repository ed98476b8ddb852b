"""What `merge` refuses, and what it warns about, before it computes anything."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from knots.adapters import Adapter
from knots.errors import KnotsError
from knots.updates import LowRank, Update


def check_options(
    *, scale: float, density: float, drop: float, dare_rng: str, trim: str, cutoff: float
) -> None:
    """Raise a KnotsError that names the first option out of its range."""
    allowed = (
        ("scale", scale, math.isfinite(scale), "a finite number"),
        ("density", density, 0 < density <= 1, "a fraction, 0 < density <= 1"),
        ("drop", drop, 0 <= drop < 1, "a fraction, 0 <= drop < 1"),
        ("cutoff", cutoff, 0 <= cutoff < math.inf, "0 or more"),
        ("dare_rng", dare_rng, dare_rng in ("task", "reference"), "'task', 'reference'"),
        ("trim", trim, trim in ("model", "module"), "'model', 'module'"),
    )
    for name, value, holds, range_ in allowed:
        if not holds:
            raise KnotsError(f"{name}={value!r}; allowed: {range_}")


def check_weights(weights: Sequence[float] | None, tasks: int, *, negative: bool) -> None:
    """Raise unless there is one finite weight per task, none negative (if not allowed), not all zero."""
    if weights is None:
        return
    if len(weights) != tasks:
        raise KnotsError(f"weights={list(weights)}: {len(weights)} weights for {tasks} adapters")
    if not all(math.isfinite(w) for w in weights) or not any(weights):
        raise KnotsError(f"weights={list(weights)}; allowed: finite numbers, not all zero")
    if not negative and min(weights) < 0:
        raise KnotsError(f"weights={list(weights)}; negative weights are allowed only with reduce='sum'")


def updates_by_module(adapters: Sequence[Adapter], device: torch.device | str) -> dict[str, list[Update]]:
    """Every module's T updates on `device`, in order of module names; zero where an adapter lacks one.

    Raises:
        KnotsError: no adapters, no module that two of them share, differing shapes, an all-zero adapter,
            or weights that are not finite.
    """
    if not adapters:
        raise KnotsError("no adapters to merge; at least one is needed")
    for adapter in adapters:
        _check_values(adapter)
    _check_overlap(adapters)
    _check_orientation(adapters)
    modules = sorted({module for adapter in adapters for module in adapter.updates})
    shapes = {module: _common_shape(module, adapters) for module in modules}
    return {
        module: [_update_or_zero(adapter, module, shapes[module]).to(device) for adapter in adapters]
        for module in modules
    }


def _check_values(adapter: Adapter) -> None:
    if not adapter.updates:
        raise KnotsError(f"adapter {adapter.name!r} has no updates")
    changes = False
    for module, update in adapter.updates.items():
        tensors = _tensors(update)
        if not all(bool(torch.isfinite(part).all()) for part in tensors):
            raise KnotsError(f"adapter {adapter.name!r}, module {module!r}: weights are NaN or infinite")
        changes = changes or bool(tensors[0].any())
    if not changes:
        raise KnotsError(
            f"adapter {adapter.name!r} is a zero update: every lora_B is zero, as when an adapter was not "
            "trained or its keys matched no module when it was loaded"
        )


def _check_overlap(adapters: Sequence[Adapter]) -> None:
    """Refuse adapters none of whose modules is shared; name modules that only some have in a warning."""
    shared = set.intersection(*(set(adapter.updates) for adapter in adapters))
    if not shared:
        examples = "; ".join(f"{a.name}: {min(a.updates)}" for a in adapters)
        raise KnotsError(f"the adapters share no module (the first one of each: {examples})")
    for adapter in adapters:
        others = {m: a.name for a in adapters for m in a.updates if m not in adapter.updates}
        if others:
            warnings.warn(
                f"adapter {adapter.name!r} has no update for {len(others)} modules that others have and "
                f"counts as zero there: {', '.join(sorted(others))}",
                stacklevel=4,
            )


def _check_orientation(adapters: Sequence[Adapter]) -> None:
    for adapter in adapters:
        if adapter.fan_in_fan_out != adapters[0].fan_in_fan_out:
            raise KnotsError(
                f"adapters {adapters[0].name!r} and {adapter.name!r} differ in fan_in_fan_out, so their base "
                "models store weights differently; only adapters of one base model can be merged"
            )


def _common_shape(module: str, adapters: Sequence[Adapter]) -> tuple[int, int]:
    having = [adapter for adapter in adapters if module in adapter.updates]
    first = having[0]
    shape = first.updates[module].shape
    for other in having[1:]:
        if other.updates[module].shape != shape:
            raise KnotsError(
                f"module {module!r}: adapter {first.name!r} has shape {shape}, adapter {other.name!r} has "
                f"{other.updates[module].shape}; only adapters of one base model can be merged"
            )
    return shape


def _update_or_zero(adapter: Adapter, module: str, shape: tuple[int, int]) -> Update:
    if module in adapter.updates:
        return adapter.updates[module]
    return LowRank(torch.zeros(shape[0], 0), torch.zeros(0, shape[1]))


def _tensors(update: Update) -> tuple[Tensor, ...]:
    return (update.b, update.a) if isinstance(update, LowRank) else (update.weight,)
