"""Merging: adapters in, one adapter out. Streams the modules through a space and a rule.

A method is a space times a rule. `METHODS` names the pairs of the literature; `merge` takes any pair.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from knots.adapters import Adapter
from knots.checks import check_options, check_weights, updates_by_module
from knots.errors import KnotsError, unknown
from knots.rules import Census, Rule, Session, Site, build_rule, resolve_rule, rule_name
from knots.rules.dare import Masks, dare, reference_masks, task_masks
from knots.rules.spectral import isotropize as make_isotropic
from knots.spaces import SPACES, Aligned, align_full, align_knots, compress
from knots.updates import Deferred, LowRank, Update

__all__ = ["METHODS", "Method", "merge", "resolve_rule"]


@dataclass(frozen=True)
class Method(Mapping[str, str]):
    """A named pair of space and rule; as a mapping it holds just these two, ready for `merge(**method)`.

    Attributes:
        space: a key of `knots.spaces.SPACES`.
        rule: a key of `knots.rules.RULES`.
        paper: where the method comes from.
        takes: options beside `scale` that the method is about.
    """

    space: str
    rule: str
    paper: str
    takes: tuple[str, ...] = ()

    def __getitem__(self, key: str) -> str:
        if key not in ("space", "rule"):
            raise KeyError(key)
        return str(getattr(self, key))

    def __iter__(self) -> Iterator[str]:
        return iter(("space", "rule"))

    def __len__(self) -> int:
        return 2


TASK_ARITHMETIC = "arXiv:2212.04089"
TIES = "arXiv:2306.01708"
DARE = "arXiv:2311.03099"
KNOTS = "arXiv:2410.19735"
CORE = "arXiv:2509.17786"
TIES_OPTIONS = ("density", "reduce", "trim")
DARE_OPTIONS = ("drop", "seed", "dare_rng")

# `sum` and `regmean` give the same merge in `knots` as in `full` space (both are linear in the columns),
# so only the cheaper pair has a name.
METHODS: Mapping[str, Method] = {
    "task_arithmetic": Method("full", "sum", TASK_ARITHMETIC, ("reduce",)),
    "dare_task_arithmetic": Method("full", "sum", DARE, ("reduce", *DARE_OPTIONS)),
    "ties": Method("full", "ties", TIES, TIES_OPTIONS),
    "dare_ties": Method("full", "ties", DARE, (*TIES_OPTIONS, *DARE_OPTIONS)),
    "knots_ties": Method("knots", "ties", KNOTS, TIES_OPTIONS),
    "knots_dare_ties": Method("knots", "ties", KNOTS, (*TIES_OPTIONS, *DARE_OPTIONS)),
    "knots_rows_ties": Method("knots_rows", "ties", KNOTS, TIES_OPTIONS),
    "regmean": Method("full", "regmean", "arXiv:2212.09849", ("grams", "off_diagonal", "ridge")),
    "fisher": Method("full", "fisher", "arXiv:2111.09832", ("fishers", "floor")),
    "tsv": Method("full", "tsv", "arXiv:2412.00081"),
    "cart": Method("full", "cart", "arXiv:2412.12153", ("pruning_rank", "cart_scale")),
    "core_ties": Method("core", "ties", CORE, TIES_OPTIONS),
    "core_tsv": Method("core", "tsv", CORE),
    "core_cart": Method("core", "cart", CORE, ("pruning_rank", "cart_scale")),
}


def merge(
    adapters: Sequence[Adapter],
    *,
    space: str,
    rule: str | Callable[..., Tensor],
    scale: float,
    density: float = 1.0,
    reduce: Literal["mean", "sum"] | None = None,
    drop: float = 0.0,
    seed: int = 0,
    dare_rng: Literal["task", "reference"] = "task",
    trim: Literal["model", "module"] = "model",
    weights: Sequence[float] | None = None,
    isotropize: bool = False,
    cutoff: float = 1e-5,
    grams: Mapping[str, Mapping[str, Tensor]] | None = None,
    device: torch.device | str = "cpu",
    **rule_options: Any,
) -> Adapter:
    """Merge the adapters of T tasks into one, without training or the base model.

    Two rules need what `knots.evaluation.calibration` collected from data: `regmean` the `grams`, `fisher`
    the option `fishers`.

    Each module's updates are aligned in `space`, dropped at random (`drop`), merged by `rule`, lifted back,
    and multiplied by `scale`. Where singular values coincide the KnOTS basis is arbitrary, hence any
    element-wise rule in it. No input is changed; the same call on the same device gives the same bits.

    Args:
        adapters: T adapters of one base model. A module that only some of them have counts as a zero
            update of the others, and a warning names it.
        space: "full", "knots", "knots_rows" or "core" (see `knots.spaces`).
        rule: "sum", "ties", "regmean", "fisher", "tsv", "cart"; a function from coordinates [T, P, Q] to
            [P, Q]; or "path/to/file.py:function".
        scale: multiplier on the merged update (lambda in the papers).
        density: fraction of entries that TIES keeps, 0 < density <= 1.
        reduce: "mean" or "sum"; None is the rule's own choice: sum for `sum`, mean for `ties`.
        drop: fraction of entries that DARE zeroes before the rule, 0 <= drop < 1.
        seed: of DARE's masks.
        dare_rng: "task" (masks that depend on nothing but seed, task and module names) or "reference"
            (the official implementation's stream).
        trim: "model", one threshold per task over all modules, or "module".
        weights: one factor per task on its coordinates, applied after alignment and before trimming.
        isotropize: replace the merge's singular values by their mean (before `scale`).
        cutoff: singular values of the shared basis up to this one are dropped; absolute.
        grams: task name -> module name -> [I, I], for `regmean`.
        device: where to compute; the merged adapter lies on it.
        rule_options: further options of the rule.

    Returns:
        An adapter whose updates are low-rank where the space and the rule allow it, and dense otherwise;
        it carries every task's head as `<task>.weight`. Where `sum` or `ties` make a dense update of low-rank
        ones, its matrix is computed from them whenever it is read (`knots.updates.Deferred`).

    Raises:
        KnotsError: an option is out of range or not taken by the rule; adapters share no module or differ
            in a module's shape; an adapter is all zero or not finite.
    """
    check_options(scale=scale, density=density, drop=drop, dare_rng=dare_rng, trim=trim, cutoff=cutoff)
    options = {"trim": trim, **rule_options}
    if density != 1.0:
        options["density"] = density
    if reduce is not None:
        options["reduce"] = reduce
    built = build_rule(rule, options)
    check_weights(weights, len(adapters), negative=getattr(built, "reduce", None) == "sum")
    updates = updates_by_module(adapters, device)
    low_rank = all(isinstance(u, LowRank) for parts in updates.values() for u in parts)
    align = _alignment(space, built, low_rank and drop == 0)
    aligned = {module: align(parts, cutoff) for module, parts in updates.items()}
    census = Census(
        tasks=tuple(adapter.name for adapter in adapters),
        numel=sum(math.prod(a.shape) for a in aligned.values()),
        weights=None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device),
        grams=None if grams is None else _gram_reader(grams, adapters),
        space=space,
    )
    masks = _masks(census.tasks, aligned, drop, seed, dare_rng) if drop > 0 else None
    sites = {m: Site(m, a.shape, tuple(u.rank for u in updates[m])) for m, a in aligned.items()}
    coordinates = _Coordinates(aligned, census.weights, masks, drop)
    merged = {
        module: (make_isotropic(update) if isotropize else update).scaled(scale)
        for module, update in _stream(
            built.begin(census), sites, coordinates, defer=low_rank and built.by_entry and align is align_full
        )
    }
    label = rule if isinstance(rule, str) else rule_name(rule)
    return _merged_adapter(adapters, merged, f"{space} x {label}")


@dataclass(frozen=True, eq=False)
class _Coordinates:
    """Coordinates as the rule reads them: aligned, then dropped at random, then weighted."""

    aligned: MutableMapping[str, Aligned]
    weights: Tensor | None
    masks: Masks | None
    drop: float

    def __getitem__(self, module: str) -> Tensor:
        coords = self.aligned[module].read()
        if self.masks is not None:
            coords = dare(coords, self.masks(module, self.aligned[module].shape), self.drop)
        return coords if self.weights is None else coords * self.weights[:, None, None]

    def lift(self, module: str, merged: Tensor) -> Update:
        """Map a module's merged coordinates back, and let go of its own: they are not read again."""
        return self.aligned.pop(module).lift(merged)


def _stream(
    session: Session, sites: Mapping[str, Site], coordinates: _Coordinates, *, defer: bool
) -> Iterator[tuple[str, Update]]:
    """Show every module to the rule as often as it asks, then merge and lift one after the other.

    With `defer` the last step waits until the update is read, for merges in `full` space: those of low-rank
    adapters would take far more memory than the adapters (six of Llama3-8B: 5.4 GB beside 0.3 GB).
    """
    for _ in range(session.rounds):
        for module, site in sites.items():
            session.observe(site, coordinates[module])
        session.end_round()
    for module, site in sites.items():
        if defer:
            yield module, Deferred(site.shape, partial(_merged_now, session, site, coordinates))
        else:
            yield module, coordinates.lift(module, session.apply(site, coordinates[module]))


def _merged_now(session: Session, site: Site, coordinates: _Coordinates) -> Tensor:
    return session.apply(site, coordinates[site.module])


def _alignment(space: str, rule: Rule, factored: bool) -> Callable[[Sequence[Update], float], Aligned]:
    """The space's alignment; or, of `factored` coordinates, one that gives the rule's merge from factors."""
    if space not in SPACES:
        raise unknown("space", space, SPACES)
    if space != "full" or not factored:
        return SPACES[space]
    if rule.commutes == "both":
        return lambda parts, _: compress(parts)
    if rule.commutes == "left":
        return lambda parts, _: align_knots(parts, 0.0)
    return SPACES[space]


def _masks(
    tasks: Sequence[str], aligned: Mapping[str, Aligned], drop: float, seed: int, dare_rng: str
) -> Masks:
    if dare_rng == "task":
        return task_masks(tasks, drop=drop, seed=seed)
    return reference_masks(tasks, {m: a.shape for m, a in aligned.items()}, drop=drop, seed=seed)


def _gram_reader(
    grams: Mapping[str, Mapping[str, Tensor]], adapters: Sequence[Adapter]
) -> Callable[[str], Tensor]:
    def read(module: str) -> Tensor:
        for adapter in adapters:
            if module not in grams.get(adapter.name, {}):
                raise KnotsError(f"grams hold nothing for module {module!r} of task {adapter.name!r}")
        return torch.stack([grams[adapter.name][module] for adapter in adapters])

    return read


def _merged_adapter(adapters: Sequence[Adapter], updates: Mapping[str, Update], label: str) -> Adapter:
    bases = {adapter.base for adapter in adapters}
    return dataclasses.replace(
        adapters[0],
        name="merged",
        updates=updates,
        heads=_task_heads(adapters),
        base=bases.pop() if len(bases) == 1 else None,
        source=f"{label} of {', '.join(adapter.name for adapter in adapters)}",
        fingerprint="",
    )


def _task_heads(adapters: Sequence[Adapter]) -> dict[str, Tensor]:
    """Every task's head as `<task>.weight` (and `.bias`); the whole name where a task has several heads."""
    heads = {}
    for adapter in adapters:
        modules = {name.rpartition(".")[0] for name in adapter.heads}
        for name, tensor in adapter.heads.items():
            short = name.rpartition(".")[2] if len(modules) == 1 else name
            heads[f"{adapter.name}.{short}"] = tensor
    return heads
