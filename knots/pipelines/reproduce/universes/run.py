"""Run every method in every universe, and put all of them into one panel of outcomes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
from rich.console import Console

from knots.analysis.statistics import Panel, panel
from knots.pipelines.analyze import finished_analysis, run_analysis
from knots.pipelines.merge import Outcome
from knots.pipelines.reproduce.experiment import Product, Runner
from knots.pipelines.reproduce.methods import best_of, label_of, run_method
from knots.pipelines.reproduce.table_plan import MethodPlan
from knots.pipelines.reproduce.universes.plan import UniversesPlan, analysis_in, in_universe
from knots.pipelines.reproduce.universes.views import (
    Arm,
    alignment_sheet,
    arm_sheets,
    inits_sheet,
    means_picture,
)
from knots.reporting.sheets import Sheet
from knots.runs import Run

log = logging.getLogger(__name__)

Outcomes = dict[str, dict[int, Outcome]]
"""Method -> universe -> what it found there."""


def run_universes(plan: UniversesPlan, console: Console) -> Product:
    """Run what is missing, and say what holds over universes.

    A method that fails in one universe is left out with the reason, and does not keep the others from it.
    """
    product = Product()
    arms = [_run_arm(plan, shared_init, console, product) for shared_init in plan.inits]
    for arm in arms:
        product.sheets.extend(arm_sheets(plan, arm, product.failures))
        if arm.panel is not None:
            product.pictures[arm.name] = means_picture(plan, arm)
    if len(arms) > 1:
        product.sheets.extend(inits_sheet(plan, arms))
    if plan.similarity is not None:
        product.sheets.extend(_similarity(plan, product, console))
    return product


def _run_arm(plan: UniversesPlan, shared_init: bool, console: Console, product: Product) -> Arm:
    """All methods on the sets of adapters of one kind."""
    runner = Runner(plan.experiment, console)
    found = collect(plan.rows, plan.universes, runner, product, shared_init=shared_init)
    whole = {method: runs for method, runs in found.items() if len(runs) == len(plan.universes)}
    known = universe_panel(whole, plan.universes) if whole else None
    return Arm(plan.experiment.name, shared_init, known, whole)


def collect(
    rows: Mapping[str, MethodPlan],
    universes: Sequence[int],
    runner: Runner,
    product: Product,
    *,
    shared_init: bool = True,
    kind: str = "",
) -> Outcomes:
    """Every method in every universe, universe by universe, so that the methods share what they load.

    Args:
        rows: method -> its run, or the search for its options.
        universes: numbers of the sets of adapters.
        runner: runs what is missing, or only looks.
        product: takes the runs and the failures.
        shared_init: which kind of sets.
        kind: stands behind a method's name in failures, as ", rank 4".
    """
    found: Outcomes = {method: {} for method in rows}
    for place, universe in enumerate(universes):
        if place:
            runner.forget()
        for method, row in rows.items():
            label = f"{label_of(method)}{kind}, universe {universe}{'' if shared_init else ', own init'}"
            run = partial(run_method, runner, in_universe(row, universe, shared_init))
            outcome = product.attempt(label, run)
            if outcome is not None:
                found[method][universe] = best = best_of(outcome)
                product.named(*best.baselines.values(), best.run)
    return found


def universe_panel(
    found: Mapping[str, Mapping[int, Outcome]], universes: Sequence[int], *, hits: int | None = None
) -> Panel:
    """The outcomes of all items: methods that were scored on the same items in every universe.

    Args:
        found: method -> universe -> its run; all of them have all universes.
        universes: in the order of the panel.
        hits: joint hits at this rank; None: among the task's own classes, with the fine-tuned adapters'
            as reference.
    """
    tables = [
        {method: runs[universe].run.predictions() for method, runs in found.items()} for universe in universes
    ]
    if hits is not None:
        return panel(tables, hits=hits)
    return panel(tables, reference=fine_tuned(found, universes))


def fine_tuned(found: Mapping[str, Mapping[int, Outcome]], universes: Sequence[int]) -> list[pd.DataFrame]:
    """The fine-tuned adapters' predictions in each universe, which are the same for all methods."""
    first = next(iter(found.values()))
    return [first[universe].baselines["finetuned"].predictions() for universe in universes]


def _similarity(plan: UniversesPlan, product: Product, console: Console) -> list[Sheet]:
    """How alike the updates of a set are, for every kind of set."""
    found: dict[bool, list[Run]] = {}
    for shared_init in plan.inits:
        runs = [
            product.attempt(
                f"analysis, universe {universe}{'' if shared_init else ', own init'}",
                partial(_compare, plan, universe, shared_init, console),
            )
            for universe in plan.universes
        ]
        known = [run for run in runs if run is not None]
        product.named(*known)
        if len(known) == len(plan.universes):
            found[shared_init] = known
    return alignment_sheet(plan, found)


def _compare(plan: UniversesPlan, universe: int, shared_init: bool, console: Console) -> Run | None:
    assert plan.similarity is not None
    analysis = analysis_in(plan.similarity, universe, shared_init)
    return run_analysis(analysis, console) if plan.experiment.run else finished_analysis(analysis)
