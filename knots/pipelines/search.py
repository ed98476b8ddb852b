"""Search a method's options on one split, and measure the best on another.

Base, heads, data and adapters are loaded once; the alignment is shared by all candidates, and the whole merge
by those that differ in their scale alone. Every trial is on disk as soon as it is scored, in a log that all
searches of the same question share.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console

from knots.adapters import Adapter
from knots.evaluation import EvaluationResult, Merged
from knots.pipelines.bench import merged, workshop_for
from knots.pipelines.identity import merge_identity
from knots.pipelines.merge import Outcome, answer, finished_outcome, run_merge, score
from knots.pipelines.plans import MergePlan
from knots.pipelines.rehearsal import published_references, rehearse
from knots.pipelines.search_plan import OPTIONS, SearchPlan
from knots.pipelines.workshop import Workshop
from knots.reporting.charts import search_curves
from knots.reporting.figures import save_figure
from knots.runs import Run, find_run, is_first_process, run_id, writing
from knots.search import Found, Options, Trial, TrialLog, value_of
from knots.search.trials import trial_of

log = logging.getLogger(__name__)

QUIET = Console(quiet=True)


@dataclass(frozen=True)
class SearchOutcome:
    """A finished search.

    Attributes:
        run: its folder and record.
        best: the chosen candidate on the test split; None where none was asked for.
        tests: seed -> that seed's own best candidate on the test split.
    """

    run: Run
    best: Outcome | None
    tests: Mapping[int, Outcome]


@dataclass(frozen=True)
class SeedSearch:
    """What the search found for one seed of DARE's masks."""

    seed: int
    found: Found


def run_search(
    plan: SearchPlan, console: Console | None = None, workshop: Workshop | None = None
) -> SearchOutcome:
    """Search, and test what was chosen; what was scored or finished before is read, not run.

    Every seed of DARE's masks is searched by itself. Each seed's best candidate is tested, so that the best
    seed on validation, which the paper reports, stands beside mean and deviation over the seeds.

    Args:
        plan: what to search.
        console: where the bars of the test runs are drawn; None draws none.
        workshop: what runs of this model and suite share, where this is one of several.

    Raises:
        KnotsError: as `run_merge`.
    """
    shop, console = workshop or workshop_for(plan.merge), console or QUIET
    identity = _identity(plan, shop)
    name, root = run_id(identity), _root(plan)
    done = None if plan.merge.force else find_run(root, name)
    if done is not None:
        log.info("the search for %s is finished already: %s", plan.merge.label, done.folder)
        return SearchOutcome(done, *_tests(plan, done.metrics["seeds"], console, shop))
    trials = TrialLog(root / ".trials" / f"{run_id(identity['question'])}.jsonl", writes=is_first_process())
    if plan.merge.force:
        trials.forget()
    with writing(root, name, config=plan.config, identity=identity) as draft:
        scorer = _Scorer(plan, shop, trials)
        searches = [_search_seed(plan, scorer, seed) for seed in plan.seeds]
        draft.measured |= {"scored": scorer.scored, "seconds": scorer.seconds}
        seeds = [_seed_record(search) for search in searches]
        best, tests = _tests(plan, seeds, console, shop)
        draft.metrics.update(_record(plan, seeds, best, tests))
        save_figure(_curves(draft.metrics), draft.folder / "figures", "search")
        lines = [json.dumps(trial.to_json()) for trial in scorer.used]
        (draft.folder / "trials.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return SearchOutcome(Run(root / name, draft.metrics, fresh=True), best, tests)


def finished_search(plan: SearchPlan, workshop: Workshop) -> SearchOutcome | None:
    """The outcome of a search that is finished, with all its test runs; None if it is not."""
    found = find_run(_root(plan), run_id(_identity(plan, workshop)))
    if found is None:
        return None
    if plan.test_split is None:
        return SearchOutcome(found, None, {})
    tests = {}
    for entry in found.metrics["seeds"]:
        outcome = finished_outcome(plan.tested(entry["chosen"], entry["seed"]), workshop)
        if outcome is None:
            return None
        tests[entry["seed"]] = outcome
    return SearchOutcome(found, tests[_best(found.metrics["seeds"])["seed"]], tests)


def _root(plan: SearchPlan) -> Path:
    return plan.merge.root.parent / "search"


def _identity(plan: SearchPlan, shop: Workshop) -> dict[str, Any]:
    """What determines the search; under `question`, what determines a candidate's counts."""
    merge = plan.merge
    asked = [_merge_identity(merge, shop)]
    if plan.test_split is not None:
        asked.append(_merge_identity(plan.tested({}, merge.seed), shop))
    for identity in asked:
        identity["merge"] = {key: value for key, value in identity["merge"].items() if key not in OPTIONS}
        identity.pop("seed")
        identity.pop("normalize_by")
    fixed = {option: merge.options[option] for option in OPTIONS if option not in plan.searched}
    return {
        "kind": "search",
        "question": {"kind": "trials", **asked[0]},
        "test": asked[1] if plan.test_split is not None else None,
        "procedure": plan.procedure.description,
        "fixed": fixed,
        "seeds": list(plan.seeds),
        "normalize_by": merge.scoring.normalize_by,
    }


def _merge_identity(plan: MergePlan, shop: Workshop) -> dict[str, Any]:
    return merge_identity(plan, shop.base.identity, shop.text, shop.adapters, shop.reading, shop.task_heads)


class _Scorer:
    """Gives candidates their values: from the log, or by merging and scoring them now."""

    def __init__(self, plan: SearchPlan, shop: Workshop, trials: TrialLog) -> None:
        self.plan, self.shop, self.trials = plan, shop, trials
        self.used: list[Trial] = []
        self.scored, self.seconds = 0, 0.0
        rehearse(plan.merge, shop)
        self._references = self._fine_tuned()
        if len(trials):
            log.info("%d trials are in %s already", len(trials), trials.path)

    def _fine_tuned(self) -> Mapping[str, float] | None:
        """Task -> the accuracy that normalized ones are divided by; None where nothing is normalized."""
        if self.plan.procedure.metric != "normalized":
            return None
        published = published_references(self.plan.merge)
        if published is not None:
            return published
        found = answer(self.plan.merge.baseline("finetuned"), self.shop, {}, QUIET).run.metrics["per_task"]
        return {task: float(numbers["accuracy"]) for task, numbers in found.items()}

    def __call__(self, options: Options, seed: int) -> float:
        """A candidate's value, in percent."""
        every = {option: float(self.plan.merge.options[option]) for option in OPTIONS} | dict(options)
        trial = self.trials.find(every, seed)
        if trial is None:
            trial = self._score(every, seed)
            self.trials.add(trial)
        self.used.append(trial)
        procedure = self.plan.procedure
        value = value_of(trial, procedure.metric, self._references)
        value = value if procedure.decimals is None else round(value, procedure.decimals)
        log.info("%3d  %s: %s %.2f", len(self.used), _told(self.plan, options, seed), procedure.metric, value)
        return value

    def _score(self, options: Options, seed: int) -> Trial:
        plan, shop = self.plan.candidate(options, seed), self.shop

        def make(device: torch.device) -> Adapter:
            return merged(plan, shop, device)[0]

        started = time.perf_counter()
        result: EvaluationResult = score(plan, shop, Merged(make), QUIET)
        self.seconds += time.perf_counter() - started
        self.scored += 1
        return trial_of(options, seed, result)


def _told(plan: SearchPlan, options: Options, seed: int) -> str:
    words = [f"{option} {value:g}" for option, value in options.items()]
    return ", ".join([*words, *([f"seed {seed}"] if len(plan.seeds) > 1 else [])])


def _search_seed(plan: SearchPlan, scorer: _Scorer, seed: int) -> SeedSearch:
    found = plan.procedure.run(lambda options: scorer(options, seed))
    log.info(
        "best of %d: %s with %s %.2f",
        found.evaluations,
        _told(plan, found.options, seed),
        plan.procedure.metric,
        found.value,
    )
    return SeedSearch(seed, found)


def _tests(
    plan: SearchPlan, seeds: Sequence[Mapping[str, Any]], console: Console, shop: Workshop
) -> tuple[Outcome | None, dict[int, Outcome]]:
    """The best candidate of every seed on the test split; first, the best of all."""
    if plan.test_split is None:
        return None, {}
    tests = {
        entry["seed"]: run_merge(plan.tested(entry["chosen"], entry["seed"]), console, shop)
        for entry in seeds
    }
    return tests[_best(seeds)["seed"]], tests


def _best(seeds: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The seed with the largest value; the first of equal ones."""
    return max(seeds, key=lambda entry: float(entry["value"]))


def _seed_record(search: SeedSearch) -> dict[str, Any]:
    found = search.found
    tried = [
        {"order": order, "options": dict(options), "value": value, "seed": search.seed}
        for order, (options, value) in enumerate(found.tried, start=1)
    ]
    return {
        "seed": search.seed,
        "chosen": dict(found.options),
        "value": found.value,
        "evaluations": found.evaluations,
        "edge": dict(found.edge),
        "trials": tried,
    }


def _record(
    plan: SearchPlan, seeds: Sequence[Mapping[str, Any]], best: Outcome | None, tests: Mapping[int, Outcome]
) -> dict[str, Any]:
    """The content of `metrics.json`."""
    merge, chosen = plan.merge, _best(seeds)
    return {
        "schema": 1,
        "record": "search",
        "title": f"{plan.procedure.name} search for {merge.label} on {merge.model.name}, {merge.suite.name}",
        "model": merge.model.name,
        "suite": merge.suite.name,
        "method": merge.label,
        "protocol": plan.procedure.protocol,
        "procedure": plan.procedure.description,
        "mode": merge.scoring.mode,
        "metric": plan.procedure.metric,
        "split": merge.scoring.split,
        "searched": list(plan.searched),
        "chosen": {**chosen["chosen"], "seed": chosen["seed"]},
        "value": chosen["value"],
        "evaluations": sum(entry["evaluations"] for entry in seeds),
        "edge": chosen["edge"],
        "seeds": list(seeds),
        "test": _test_record(plan, best, tests),
        "figures": [{"file": "figures/search.png", "caption": _caption(plan)}],
        "notes": _notes(plan, chosen),
    }


def _caption(plan: SearchPlan) -> str:
    metric, split = plan.procedure.metric, plan.merge.scoring.split
    return (
        f"{metric} of every trial on the {split} split, against each option that was searched, and the best "
        "so far; the chosen one is marked"
    )


def _curves(record: Mapping[str, Any]) -> Figure:
    trials = [trial for entry in record["seeds"] for trial in entry["trials"]]
    # One after the other, as they were run; each seed counts from 1.
    trials = [{**trial, "order": order} for order, trial in enumerate(trials, start=1)]
    ylabel = f"{record['metric']} on {record['split']} (%)"
    return search_curves(trials, title=record["title"], ylabel=ylabel, chosen=record["chosen"])


def _test_record(
    plan: SearchPlan, best: Outcome | None, tests: Mapping[int, Outcome]
) -> dict[str, Any] | None:
    """The chosen candidate on the test split, and the seeds' candidates beside it."""
    if best is None:
        return None
    metric = plan.procedure.metric
    values = {seed: _measured(outcome, metric) for seed, outcome in tests.items()}
    several = len(values) > 1
    return {
        "split": plan.test_split,
        "run": best.run.run_id,
        "value": _measured(best, metric),
        "runs": {str(seed): outcome.run.run_id for seed, outcome in tests.items()},
        "values": {str(seed): value for seed, value in values.items()},
        "mean": float(np.mean(list(values.values()))),
        "deviation": float(np.std(list(values.values()), ddof=1)) if several else None,
    }


def _measured(outcome: Outcome, metric: str) -> float:
    metrics = outcome.run.metrics
    return float(metrics["joint" if metric.startswith("hits@") else "average"][metric])


def _notes(plan: SearchPlan, chosen: Mapping[str, Any]) -> list[str]:
    edges = [f"{option} at its {end} end" for option, end in chosen["edge"].items() if end]
    notes = [f"the best is on the edge of what was searched: {', '.join(edges)}"] if edges else []
    if len(plan.seeds) > 1:
        notes.append(
            f"each of {len(plan.seeds)} seeds was searched by itself; the best on {plan.merge.scoring.split} "
            "is the paper's figure, mean and deviation over the seeds the fairer one"
        )
    return notes
