"""Accuracy against the number of merged tasks (Figure 3 of the KnOTS paper, arXiv 2410.19735).

Every method merges the same subsets of the tasks, and each merge is scored on its own tasks alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial

from rich.console import Console

from knots.pipelines.reproduce.count_plan import CountsPlan
from knots.pipelines.reproduce.count_views import Runs, means_picture, means_sheet, subsets_sheet
from knots.pipelines.reproduce.experiment import Product, Runner
from knots.pipelines.reproduce.methods import Found, best_of, chosen_merge, label_of, run_method
from knots.pipelines.reproduce.subsets import SubsetRunner
from knots.pipelines.reproduce.table_plan import merge_of

log = logging.getLogger(__name__)


def run_counts(plan: CountsPlan, console: Console) -> Product:
    """Run what is missing, and draw every method's mean over the subsets.

    A method that cannot be run does not keep the others from it.
    """
    runner, product = Runner(plan.experiment, console), Product()
    found: dict[str, Found] = {}
    for method, row in plan.rows.items():
        outcome = product.attempt(label_of(method), partial(run_method, runner, row))
        if outcome is not None:
            found[method] = outcome
            product.took(best_of(outcome))
    runs = _run_subsets(plan, found, runner, product)
    product.sheets.append(means_sheet(plan, runs, found, product.failures))
    product.details.append(subsets_sheet(plan, runs))
    if found:
        product.pictures["counts"] = means_picture(plan, runs)
    return product


def _run_subsets(plan: CountsPlan, found: Mapping[str, Found], runner: Runner, product: Product) -> Runs:
    """Every method on every subset, subset by subset; a method that fails once is not tried again."""
    every = merge_of(plan.first).suite.task_names
    runs: Runs = {method: {} for method in plan.rows}
    for method, outcome in found.items():
        runs[method][every] = best_of(outcome).run
    left = {method: chosen_merge(plan.rows[method], outcome) for method, outcome in found.items()}
    scorer = SubsetRunner(runner)
    subsets = [subset for subset in plan.every_subset if subset != every]
    for number, subset in enumerate(subsets if left else (), start=1):
        log.info("subset %d of %d: %s", number, len(subsets), ", ".join(subset))
        for method, merge in list(left.items()):
            label = f"{label_of(method)} on {', '.join(subset)}"
            run = product.attempt(label, partial(scorer.run, merge, subset))
            if run is not None:
                runs[method][subset] = run
                product.named(run)
            elif label in product.failures:
                del left[method]
    return runs
