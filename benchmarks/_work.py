"""What a table of the paper puts through its model and merges, counted from its plan; nothing is run.

The same walk as `knots.pipelines.reproduce.tables.run_table` takes: rows with their baselines and searches
first, then for every merge what it costs and what it reaches when it is shortened. A run that two rows ask
for is made once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from knots.evaluation.routing import PROTOTYPES
from knots.pipelines.bench import CALIBRATED, CALIBRATION_BATCH
from knots.pipelines.bounds import absent, candidate
from knots.pipelines.plans import BASELINES, BEST, MergePlan
from knots.pipelines.reproduce.table_plan import RowPlan, TablePlan
from knots.pipelines.search.plan import SearchPlan
from knots.search import Axis, Options
from knots.suites.tasks import Suite

BOUNDS = "bounds and baselines"
SEARCH = "searched candidates"
METHODS = "methods"
SHORTENED = "shortened merges"


@dataclass
class Work:
    """What a table does.

    Attributes:
        items: that are scored, once for every time that they go through the base model, by purpose.
        passes: batches in which they do; None where the plan does not tell: those of sentences go by their
            lengths, a router's by what it finds.
        shown: items that go through it for rules that look at data.
        shown_passes: batches in which these do; likewise None.
        merges: that are scored, by method; each is one call of `knots.merge`.
        measured: that are measured for the sheet of costs, likewise; each is some calls more.
    """

    items: Counter[str]
    passes: int | None
    shown: int
    shown_passes: int | None
    merges: Counter[str]
    measured: Counter[str]

    @property
    def total(self) -> int:
        """Items that are scored."""
        return self.items.total()


def work_of(plan: TablePlan, candidates: int | None = None) -> Work:
    """Count what a table does in a folder where nothing is.

    Args:
        plan: the table.
        candidates: that its searches scored, all together; None is the most that they can, each line to its
            end.
    """
    walk = _Walk(plan)
    rows = [row for row in plan.rows if absent(row.merge) is None]
    for row in rows:
        if isinstance(row.plan, SearchPlan):
            walk.search(row.plan, known=candidates is not None)
        else:
            walk.run(row.plan, METHODS)
    if candidates is not None and candidates:
        first = next(row.plan for row in rows if isinstance(row.plan, SearchPlan))
        walk.score(first.merge, SEARCH, times=candidates)
    for row in rows:
        if plan.costs and row.merge.kind == "merged":
            walk.costs(_final(row), plan.max_ranks)
    return walk.work


def _final(row: RowPlan) -> MergePlan:
    """A row's run on the split that the table shows; of a search one for all options that it may find."""
    if isinstance(row.plan, SearchPlan):
        return row.plan.tested({}, row.plan.seeds[0])
    return row.plan


def fewer_items(suite: Suite, items: int | None) -> list[str]:
    """Overrides for at most so many items of each task's test and validation split; None is all."""
    if items is None:
        return []
    return [
        f"suite.tasks.{task.name}.sizes.{split}={min(items, task.size(split))}"
        for task in suite.tasks
        for split in ("test", "validation")
    ]


def most_candidates(plan: SearchPlan) -> int:
    """Of one seed: a line that gets better with every value goes to its end."""
    procedure = plan.procedure
    if procedure.kind == "optuna":
        return procedure.trials
    order = {axis.name: axis.values for axis in procedure.axes if isinstance(axis, Axis)}

    def better_and_better(options: Options) -> float:
        places = (order[name].index(value) if value in order[name] else 0 for name, value in options.items())
        return 1.0 + sum(places)

    return procedure.run(better_and_better).evaluations


class _Walk:
    """Adds up what runs do, in the order in which they are made."""

    def __init__(self, plan: TablePlan) -> None:
        vision = plan.rows[0].merge.suite.modality == "vision"
        passes = 0 if vision else None
        self.work = Work(Counter(), passes, 0, passes, Counter(), Counter())
        self._done: set[str] = set()
        self._shown: Any = None

    def run(self, plan: MergePlan, purpose: str) -> None:
        """As `knots.pipelines.merge.run_merge`."""
        if plan.adapter == BEST:
            for task in plan.suite.task_names:
                self.run(candidate(plan, task), BOUNDS)
        for kind in BASELINES[plan.kind]:
            self.once(plan.baseline(kind), BOUNDS)
        self.once(plan, purpose if plan.kind == "merged" else BOUNDS)

    def search(self, plan: SearchPlan, *, known: bool) -> None:
        """As `knots.pipelines.search.run.run_search`; `known`: candidates are counted elsewhere."""
        if plan.procedure.metric == "normalized" and plan.merge.scoring.normalize_by == "measured":
            self.once(plan.merge.baseline("finetuned"), BOUNDS)
        if not known:
            self.score(plan.merge, SEARCH, times=most_candidates(plan) * len(plan.seeds))
        for seed in plan.seeds if plan.test_split is not None else ():
            self.run(plan.tested({}, seed), METHODS)

    def costs(self, plan: MergePlan, ranks: tuple[int, ...]) -> None:
        """As `knots.pipelines.reproduce.costs.add_costs`, for one row."""
        self._show(plan)
        self.work.measured[plan.label] += 1
        for rank in ranks:
            self.run(replace(plan, max_rank=rank), SHORTENED)

    def once(self, plan: MergePlan, purpose: str) -> None:
        """Score a plan, unless it was scored before."""
        key = repr((plan.kind, plan.options, plan.seed, plan.max_rank, plan.adapter, plan.scoring.split))
        if key not in self._done:
            self._done.add(key)
            self.score(plan, purpose)

    def score(self, plan: MergePlan, purpose: str, times: int = 1) -> None:
        """Everything that goes through the base while a plan is scored."""
        if plan.kind == "merged":
            self._show(plan)
            self.work.merges[plan.label] += times
        if plan.kind == "router":
            self.work.passes = None
        for items, batch in _through(plan):
            self.work.items[purpose] += times * items
            if self.work.passes is not None:
                self.work.passes += times * -(-items // batch)

    def _show(self, plan: MergePlan) -> None:
        """What a rule is shown; what the last one saw is kept."""
        wanted, rule = plan.calibration, plan.options["rule"]
        if wanted is None or rule not in CALIBRATED or self._shown == (rule, wanted):
            return
        self._shown = (rule, wanted)
        most = CALIBRATION_BATCH[plan.suite.modality]
        batch = min(plan.scoring.batch_size or most, most)
        items = [min(wanted.examples, task.size(wanted.split)) for task in plan.suite.tasks]
        # Gram matrices are measured once for modules with the same inputs, which one item tells.
        first = 1 if rule == "regmean" else 0
        self.work.shown += sum(items) + first
        if self.work.shown_passes is not None:
            self.work.shown_passes += sum(-(-n // batch) for n in items) + first


def _through(plan: MergePlan) -> Iterator[tuple[int, int]]:
    """Items that go through the base one batch after the other, and the most of them in a batch."""
    scoring, suite = plan.scoring, plan.suite
    batch = scoring.batch_size or 1
    # Tasks alone are scored in half precision, all of them together in float32: two passes.
    times = 2 if (scoring.mode, scoring.protocol) == ("all", "reference") else 1
    copies = len(suite.tasks) if plan.kind == "ensemble" else 1
    for task in suite.tasks:
        items = task.size(scoring.split)
        yield from [(copies * items, copies * max(1, batch // copies))] * times
        if plan.kind == "router":
            yield items, batch
            yield task.size(PROTOTYPES), batch
