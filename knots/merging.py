"""Merging: adapters in, one adapter out. Streams the modules through a space and a rule.

A method is a space times a rule. `METHODS` names the pairs of the literature; `merge` takes any pair.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from knots.adapters import Adapter
from knots.checks import check_options, check_weights, updates_by_module
from knots.errors import KnotsError, unknown
from knots.methods import METHODS, Method
from knots.prepared import Prepared
from knots.rules import Census, Rule, Session, Site, build_rule, resolve_rule, rule_name
from knots.rules.dare import Masks, dare, kept, reference_masks, task_masks
from knots.rules.spectral import isotropize as make_isotropic
from knots.spaces import SPACES, Aligned, align_full, align_knots, align_modules, compress
from knots.threads import spread, torch_threads
from knots.updates import Deferred, LowRank, Update

__all__ = ["METHODS", "Method", "Prepared", "merge", "resolve_rule"]

AT_ONCE = 1 << 27
"""Coordinates of modules that are worked on side by side; 512 MiB."""
SMALL = 1 << 22
"""Coordinates of all modules up to which a second thread costs more than it does."""

PART = 1 << 20
"""Coordinates that are multiplied out at once, where a rule takes some rows at a time: what caches hold."""
TASK_PART = 1 << 16
"""Coordinates of one task that are, at least: each part has a cost of its own for every task."""
LARGEST_PART = 6 << 20
"""Coordinates that are, at most: from 32 MiB on glibc has the system map new memory for each part."""

HELD = 1 << 30
"""Bytes of a dense merge of low-rank updates that are held; a larger one is computed at each reading."""


def merge(
    adapters: Sequence[Adapter] | Prepared,
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
            update of the others, and a warning names it. `Prepared` ones for many merges.
        space: "full", "knots", "knots_unscaled", "knots_rows" or "core" (see `knots.spaces`).
        rule: "sum", "ties", "regmean", "fisher", "tsv", "cart"; a function from coordinates [T, P, Q] to
            [P, Q]; or "path/to/file.py:function".
        scale: multiplier on the merged update (lambda in the papers).
        density: fraction of entries that TIES keeps, 0 < density <= 1.
        reduce: "mean" or "sum"; None is the rule's own choice: sum for `sum`, mean for `ties`.
        drop: fraction of entries that DARE zeroes before the rule, 0 <= drop < 1; or within it, where the
            rule's options say so (`ties`: dare_after="trim").
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
        it carries every task's head as `<task>.weight`. Where `sum` or `ties` make dense updates of low-rank
        ones, and all of them take more than 1 GiB, each matrix is computed from its factors whenever it is
        read (`knots.updates.Deferred`).

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
    prepared = adapters if isinstance(adapters, Prepared) else Prepared(adapters, keeps=False)
    check_weights(weights, len(prepared.adapters), negative=getattr(built, "reduce", None) == "sum")
    where = {"device": str(device)}
    updates = prepared.recall("updates", where)
    if updates is None:
        updates = prepared.keep("updates", where, updates_by_module(prepared.adapters, device))
    recipe: dict[str, Any] = {"space": space, "rule": rule, "drop": drop, "seed": seed, "dare_rng": dare_rng}
    recipe |= {"cutoff": cutoff, "weights": weights, "isotropize": isotropize, "grams": grams}
    recipe |= {**options, **where}
    merged = prepared.recall("merge", recipe)
    if merged is None and prepared.keeps:
        merged = prepared.keep("merge", recipe, _merged(prepared, updates, built, recipe, None))
    if merged is None:
        scaled = dict(_merged(prepared, updates, built, recipe, scale))
    else:
        scaled = {module: update.scaled(scale) for module, update in merged}
    label = f"{space} x {rule if isinstance(rule, str) else rule_name(rule)}"
    return _merged_adapter(prepared.adapters, scaled, label)


def _merged(
    prepared: Prepared,
    updates: Mapping[str, list[Update]],
    rule: Rule,
    recipe: Mapping[str, Any],
    scale: float | None,
) -> list[tuple[str, Update]]:
    """The merge of every module; before its scale where that is None."""
    adapters, device, weights = prepared.adapters, recipe["device"], recipe["weights"]
    space, drop, grams = recipe["space"], recipe["drop"], recipe["grams"]
    low_rank = all(isinstance(u, LowRank) for parts in updates.values() for u in parts)
    align = _alignment(space, rule, low_rank and drop == 0)
    alignment = {"align": align, "cutoff": recipe["cutoff"], "device": device}
    aligned = prepared.recall("alignment", alignment)
    if aligned is None:
        made = align_modules(align, updates, recipe["cutoff"], device)
        aligned = prepared.keep("alignment", alignment, made)
    tasks = tuple(adapter.name for adapter in adapters)
    masks = _masks(tasks, aligned, drop, recipe["seed"], recipe["dare_rng"]) if drop > 0 else None
    census = Census(
        tasks=tasks,
        numel=sum(math.prod(a.shape) for a in aligned.values()),
        weights=None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device),
        grams=None if grams is None else _gram_reader(grams, adapters),
        space=space,
        masks=masks if rule.drops else None,
        drop=drop if rule.drops else 0.0,
    )
    sites = {m: Site(m, a.shape, tuple(u.rank for u in updates[m])) for m, a in aligned.items()}
    # A merge lets go of each module's coordinates; of what is kept it has a list of its own.
    coordinates = _Coordinates(
        dict(aligned) if prepared.keeps else aligned, census.weights, None if rule.drops else masks, drop
    )
    session = rule.begin(census)
    whole = drop > 0 or grams is not None  # masks and Gram matrices are made for whole modules
    threads = _threads(session, sites, whole=whole) if rule.parallel and str(device) == "cpu" else 1
    defer = low_rank and rule.by_entry and align is align_full and 4 * census.numel > HELD

    def finish(update: Update) -> Update:
        found = make_isotropic(update) if recipe["isotropize"] else update
        return found if scale is None else found.scaled(scale)

    small = len(tasks) * census.numel <= SMALL
    with torch_threads(1) if small else nullcontext():
        return _stream(session, sites, coordinates, finish, threads, defer=defer)


def _threads(session: Session, sites: Mapping[str, Site], *, whole: bool) -> int:
    """Modules that may be worked on at the same time: fewer the more each needs.

    Large ones keep all cores busy by themselves. Beside its coordinates each needs about as much again.
    """
    needed = []
    for site in sites.values():
        tasks, (rows, columns) = len(site.ranks), site.shape
        shown = max(rows, columns) if whole else min(rows, _height(session, site))
        needed.append(tasks * shown * columns + rows * columns)
    return AT_ONCE // max(1, *needed)


@dataclass(frozen=True, eq=False)
class _Coordinates:
    """Coordinates as the rule reads them: aligned, then dropped at random (or by the rule), then weighted."""

    aligned: MutableMapping[str, Aligned]
    weights: Tensor | None
    masks: Masks | None
    drop: float

    def parts(self, module: str, height: int) -> Iterator[Tensor]:
        """A module's coordinates [T, P, Q], so many rows at a time."""
        aligned = self.aligned[module]
        mask = None if self.masks is None else self.masks(module, aligned.shape)
        for start in range(0, max(1, aligned.shape[0]), height):
            rows = slice(start, start + height)
            coords = aligned.read(rows)
            if mask is not None:
                coords = dare(coords, mask[:, rows], self.drop)
            yield coords if self.weights is None else coords * self.weights[:, None, None]

    def lift(self, module: str, merged: Tensor) -> Update:
        """Map a module's merged coordinates back, and let go of its own: they are not read again."""
        return self.aligned.pop(module).lift(merged)


def _stream(
    session: Session,
    sites: Mapping[str, Site],
    coordinates: _Coordinates,
    finish: Callable[[Update], Update],
    threads: int,
    *,
    defer: bool,
) -> list[tuple[str, Update]]:
    """Show every module to the rule as often as it asks, then merge, lift and `finish` each of them.

    With `defer` the last step waits until the update is read, for merges in `full` space: those of low-rank
    adapters would take far more memory than the adapters (six of Llama3-8B: 5.4 GB beside 0.3 GB).
    """

    def observe(site: Site) -> None:
        for coords in coordinates.parts(site.module, _height(session, site)):
            session.observe(site, coords)

    def merged(site: Site) -> tuple[str, Update]:
        merge = partial(_merged_now, session, site, coordinates)
        if defer:
            return site.module, finish(Deferred(site.shape, merge))
        return site.module, finish(coordinates.lift(site.module, merge()))

    for _ in range(session.rounds):
        spread(observe, sites.values(), threads)
        with torch_threads(1):  # threads that go on spinning would take a core from the next round
            session.end_round()
    return spread(merged, sites.values(), threads)


def _merged_now(session: Session, site: Site, coordinates: _Coordinates) -> Tensor:
    parts = coordinates.parts(site.module, _height(session, site))
    merged = [session.apply(site, coords) for coords in parts]
    return merged[0] if len(merged) == 1 else torch.cat(merged)


def _height(session: Session, site: Site) -> int:
    """Rows of a module that a session is shown at a time: all of them, or what is quickly made and read."""
    tasks, (rows, columns) = len(site.ranks), site.shape
    if not session.by_rows:
        return max(1, rows)
    part = min(LARGEST_PART, max(PART, tasks * TASK_PART))
    return max(1, part // max(1, tasks * columns))


def _alignment(space: str, rule: Rule, factored: bool) -> Callable[[Sequence[Update], float], Aligned]:
    """The space's alignment; or, of `factored` coordinates, one that gives the rule's merge from factors."""
    if space not in SPACES:
        raise unknown("space", space, SPACES)
    if space != "full" or not factored:
        return SPACES[space]
    if rule.commutes == "both":
        return _compress
    if rule.commutes == "left":
        return _align_all
    return SPACES[space]


def _compress(parts: Sequence[Update], _: float) -> Aligned:
    return compress(parts)


def _align_all(parts: Sequence[Update], _: float) -> Aligned:
    return align_knots(parts, 0.0)


def _masks(
    tasks: Sequence[str], aligned: Mapping[str, Aligned], drop: float, seed: int, dare_rng: str
) -> Masks:
    if dare_rng == "task":
        return kept(task_masks(tasks, drop=drop, seed=seed))
    return kept(reference_masks(tasks, {m: a.shape for m, a in aligned.items()}, drop=drop, seed=seed))


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
