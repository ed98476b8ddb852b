"""Everything that a claims card needs to know, run or found, universe by universe."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import pandas as pd
from rich.console import Console

from knots.analysis.statistics import Draws, hierarchical, panel
from knots.evaluation.summary import BOOTSTRAP_SEED
from knots.pipelines.merge import Outcome
from knots.pipelines.reproduce.claims.plan import ClaimsPlan, SimilarityPart, seeded_for
from knots.pipelines.reproduce.count_plan import Subset
from knots.pipelines.reproduce.experiment import Product, Runner
from knots.pipelines.reproduce.methods import chosen_merge, label_of
from knots.pipelines.reproduce.subsets import SubsetRunner
from knots.pipelines.reproduce.training import FullFinetunes, compare, train_missing
from knots.pipelines.reproduce.universes import Outcomes, collect, fine_tuned, in_universe, universe_panel
from knots.pipelines.reproduce.universes.plan import analysis_in
from knots.runs import Run

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Evidence:
    """What was run.

    Attributes:
        universes: in the order of everything below.
        methods: method -> universe -> its run with the options that were found for it.
        large: the same methods at a large scale.
        ranks: rank -> method -> universe -> its run.
        parts: method -> subset of the tasks -> universe -> its run.
        similar: universe -> comparison of updates.
    """

    universes: tuple[int, ...]
    methods: Outcomes = field(default_factory=dict)
    large: Outcomes = field(default_factory=dict)
    ranks: dict[int, Outcomes] = field(default_factory=dict)
    parts: dict[str, dict[Subset, dict[int, Run]]] = field(default_factory=dict)
    similar: dict[int, Run] = field(default_factory=dict)

    def whole(self, found: Mapping[str, Mapping[int, Outcome]]) -> Outcomes:
        """The methods that ran in every universe."""
        return {m: dict(runs) for m, runs in found.items() if set(runs) == set(self.universes)}

    @cached_property
    def averages(self) -> Draws | None:
        """Normalized averages of everything that merges adapters of the models' own rank.

        Predictors: methods, `large(...)` of methods, and `part(...)` of subsets; one draw for all.
        """
        known = self.whole(self.methods)
        if not known:
            return None
        tables: dict[str, dict[int, pd.DataFrame]] = {
            **_predictions(known),
            **{large(method): runs for method, runs in _predictions(self.whole(self.large)).items()},
        }
        for method, subsets in self.parts.items():
            for subset, runs in subsets.items():
                if set(runs) == set(self.universes):
                    tables[part(method, subset)] = {u: run.predictions() for u, run in runs.items()}
        every = [{name: by[u] for name, by in tables.items()} for u in self.universes]
        reference = fine_tuned(known, self.universes)
        return hierarchical(panel(every, reference=reference), seed=BOOTSTRAP_SEED)

    @cached_property
    def joint(self) -> Draws | None:
        """Pooled hits@1 over all labels."""
        known = self.whole(self.methods)
        if not known:
            return None
        return hierarchical(universe_panel(known, self.universes, hits=1), seed=BOOTSTRAP_SEED, pooled=True)

    def at_rank(self, rank: int) -> Draws | None:
        """Normalized averages of adapters of a rank; those of another are other trainings, drawn anew."""
        known = self.whole(self.ranks.get(rank, {}))
        if not known:
            return None
        return hierarchical(universe_panel(known, self.universes), seed=BOOTSTRAP_SEED + rank)


def _predictions(found: Outcomes) -> dict[str, dict[int, pd.DataFrame]]:
    return {m: {u: outcome.run.predictions() for u, outcome in runs.items()} for m, runs in found.items()}


def large(method: str) -> str:
    """What a method at a large scale is called among predictors."""
    return f"{method} at a large scale"


def part(method: str, subset: Sequence[str]) -> str:
    """What a method on some of the tasks is called among predictors."""
    return f"{method} on {', '.join(subset)}"


def gather(plan: ClaimsPlan, console: Console, product: Product) -> Evidence:
    """Run what is missing; what fails leaves out the claims that need it.

    Args:
        plan: the card.
        console: where bars are drawn.
        product: takes runs and failures.
    """
    evidence = Evidence(plan.universes)
    for universe in plan.universes:
        runner = Runner(plan.experiment, console)
        if plan.training is not None and plan.experiment.run:
            product.attempt(f"adapters, universe {universe}", partial(_train, plan, universe))
        _add(evidence.methods, collect(plan.rows, (universe,), runner, product))
        _run_large(plan, universe, runner, product, evidence)
        _run_parts(plan, universe, runner, product, evidence)
        _run_ranks(plan, universe, console, product, evidence)
        if plan.similarity is not None:
            compare = partial(_compare, plan, plan.similarity, universe, console)
            run = product.attempt(f"comparison of updates, universe {universe}", compare)
            if run is not None:
                evidence.similar[universe] = run
                product.named(run)
    return evidence


def _add(known: Outcomes, found: Outcomes) -> None:
    for method, runs in found.items():
        known.setdefault(method, {}).update(runs)


def _run_large(plan: ClaimsPlan, universe: int, runner: Runner, product: Product, evidence: Evidence) -> None:
    """Task arithmetic at a scale that is far too large."""
    method = "task_arithmetic"
    outcome = evidence.methods.get(method, {}).get(universe)
    if plan.large_scale is None or outcome is None:
        return
    merge = chosen_merge(in_universe(plan.rows[method], universe), outcome)
    merge = replace(merge, options={**merge.options, "scale": plan.large_scale}, keep_adapter=False)
    label = f"{label_of(method)} at scale {plan.large_scale:g}, universe {universe}"
    found = product.attempt(label, partial(runner.merge, merge))
    if found is not None:
        evidence.large.setdefault(method, {})[universe] = found
        product.named(found.run)


def _run_parts(plan: ClaimsPlan, universe: int, runner: Runner, product: Product, evidence: Evidence) -> None:
    """Merges of some of the tasks, with the options of all of them."""
    if plan.counts is None:
        return
    merges = {}
    for method in plan.counts.rows:
        outcome = evidence.methods.get(method, {}).get(universe)
        if outcome is not None:
            merge = chosen_merge(in_universe(plan.rows[method], universe), outcome)
            merges[method] = replace(merge, keep_adapter=False)
    subsets = SubsetRunner(runner)
    every = itertools.chain.from_iterable(plan.counts.subsets.values())
    for subset, (method, merge) in itertools.product(every, merges.items()):
        label = f"{label_of(method)} on {', '.join(subset)}, universe {universe}"
        run = product.attempt(label, partial(subsets.run, merge, subset))
        if run is not None:
            evidence.parts.setdefault(method, {}).setdefault(subset, {})[universe] = run
            product.named(run)


def _run_ranks(
    plan: ClaimsPlan, universe: int, console: Console, product: Product, evidence: Evidence
) -> None:
    if plan.ranks is None:
        return
    for rank, rows in plan.ranks.rows.items():
        runner = Runner(plan.experiment, console)
        found = collect(rows, (universe,), runner, product, kind=f", rank {rank}")
        _add(evidence.ranks.setdefault(rank, {}), found)


def _train(plan: ClaimsPlan, universe: int) -> None:
    assert plan.training is not None
    folder = plan.training.folder / f"universe_{universe}"
    recipe = seeded_for(plan.training.recipe, universe)
    train_missing(plan.first, recipe, folder, f"universe {universe}")


def _compare(plan: ClaimsPlan, similarity: SimilarityPart, universe: int, console: Console) -> Run | None:
    """How alike the updates are, with full fine-tunes of as many tasks, which are trained where missing."""
    folder = similarity.folder / f"universe_{universe}"
    full = FullFinetunes(seeded_for(similarity.recipe, universe), folder)
    analysis, label = analysis_in(similarity.analysis, universe), f"full, universe {universe}"
    return compare(analysis, full, label, console, run=plan.experiment.run)
