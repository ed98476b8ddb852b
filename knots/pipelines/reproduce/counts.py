"""Accuracy against the number of merged tasks (Figure 3 of the KnOTS paper, arXiv 2410.19735).

Every method merges the same subsets of the tasks, and each merge is scored on its own tasks alone. What it
is compared with does not depend on which tasks are merged: the base and the fine-tuned adapters are measured
once, over all tasks, and a subset takes its part of that.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from rich.console import Console

from knots.pipelines.merge import Answer, answer, baseline_answers, finished_run
from knots.pipelines.plans import MergePlan
from knots.pipelines.reproduce.count_plan import CountsPlan, Subset
from knots.pipelines.reproduce.count_views import Runs, means_picture, means_sheet, subsets_sheet
from knots.pipelines.reproduce.experiment import Product, Runner
from knots.pipelines.reproduce.methods import Found, best_of, label_of, run_method
from knots.pipelines.reproduce.table_plan import MethodPlan, merge_of
from knots.pipelines.search.run import SearchOutcome
from knots.pipelines.workshop import Workshop
from knots.runs import Run

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


def chosen_merge(row: MethodPlan, found: Found) -> MergePlan:
    """The run over all tasks, with the options that all subsets take over."""
    if isinstance(row, MergePlan):
        return row
    assert isinstance(found, SearchOutcome)
    options = dict(found.run.metrics["chosen"])
    return row.tested(options, options.pop("seed"))


def merge_some(plan: MergePlan, tasks: Subset) -> MergePlan:
    """The same merge of some of the tasks, as `experiments/merge.py tasks=[...]` runs it."""
    config = {**plan.config, "tasks": list(tasks)}
    return replace(plan, suite=plan.suite.subset(tasks), config=config)


def _run_subsets(plan: CountsPlan, found: Mapping[str, Found], runner: Runner, product: Product) -> Runs:
    """Every method on every subset, subset by subset; a method that fails once is not tried again."""
    every = merge_of(plan.first).suite.task_names
    runs: Runs = {method: {} for method in plan.rows}
    for method, outcome in found.items():
        runs[method][every] = best_of(outcome).run
    left = {method: chosen_merge(plan.rows[method], outcome) for method, outcome in found.items()}
    scorer = _Scorer(runner)
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


class _Scorer:
    """Runs merges of some of the tasks; their baselines are parts of those over all tasks."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._shop: Workshop | None = None
        self._baselines: dict[str, Answer] = {}

    def run(self, merge: MergePlan, subset: Subset) -> Run | None:
        """The run over a subset; None where it is not there and nothing is to be run."""
        part = merge_some(merge, subset)
        shop = self._shop_for(part)
        found = finished_run(part, shop)
        if not self.runner.experiment.run or (found is not None and not part.force):
            return found
        if not self._baselines:
            self._baselines = baseline_answers(merge, self.runner.shop(merge), self.runner.console)
        baselines = {kind: whole.of(part.baseline(kind)) for kind, whole in self._baselines.items()}
        return answer(part, shop, baselines, self.runner.console).run

    def _shop_for(self, part: MergePlan) -> Workshop:
        """One for all methods on a subset, so that they share its alignment."""
        if self._shop is None or self._shop.suite.task_names != part.suite.task_names:
            self._shop = self.runner.shop(part)
        return self._shop
