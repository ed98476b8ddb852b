"""Merges of some of the tasks, with the options of all of them, each scored on its own tasks alone.

What they are compared with does not depend on which tasks are merged: the base and the fine-tuned adapters
are measured once, over all tasks, and a subset takes its part of that.
"""

from __future__ import annotations

from dataclasses import replace

from knots.pipelines.merge import Answer, answer, baseline_answers, finished_run
from knots.pipelines.plans import MergePlan
from knots.pipelines.reproduce.count_plan import Subset
from knots.pipelines.reproduce.experiment import Runner
from knots.pipelines.workshop import Workshop
from knots.runs import Run


def merge_some(plan: MergePlan, tasks: Subset) -> MergePlan:
    """The same merge of some of the tasks, as `experiments/merge.py tasks=[...] eval=per_task` runs it."""
    mode = "per_task"
    config = {**plan.config, "tasks": list(tasks)}
    if "eval" in config:
        config["eval"] = {**config["eval"], "mode": mode}
    scoring = replace(plan.scoring, mode=mode)
    return replace(plan, suite=plan.suite.subset(tasks), scoring=scoring, config=config)


class SubsetRunner:
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
