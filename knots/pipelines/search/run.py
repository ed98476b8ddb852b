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

import torch
from rich.console import Console

from knots.adapters import Adapter
from knots.drafts import writing
from knots.evaluation import EvaluationResult, Merged
from knots.pipelines.bench import merged, workshop_for
from knots.pipelines.merge import Outcome, answer, finished_outcome, run_identity, run_merge, score
from knots.pipelines.rehearsal import published_references, rehearse
from knots.pipelines.search.plan import OPTIONS, SearchPlan
from knots.pipelines.search.record import best_seed, curves, search_record, seed_record
from knots.pipelines.workshop import Workshop
from knots.reporting.figures import save_figure
from knots.runs import Run, find_run, is_first_process, run_id
from knots.search import Options, Trial, TrialLog, value_of
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
        seeds = [_search_seed(plan, scorer, seed) for seed in plan.seeds]
        draft.measured |= {"scored": scorer.scored, "seconds": scorer.seconds}
        best, tests = _tests(plan, seeds, console, shop)
        draft.metrics.update(search_record(plan, seeds, best, tests))
        save_figure(curves(draft.metrics), draft.folder / "figures", "search")
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
    return SearchOutcome(found, tests[best_seed(found.metrics["seeds"])["seed"]], tests)


def _root(plan: SearchPlan) -> Path:
    return plan.merge.root.parent / "search"


def _identity(plan: SearchPlan, shop: Workshop) -> dict[str, Any]:
    """What determines the search; under `question`, what determines a candidate's counts."""
    merge = plan.merge
    asked = [run_identity(merge, shop)]
    if plan.test_split is not None:
        asked.append(run_identity(plan.tested({}, merge.seed), shop))
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


def _search_seed(plan: SearchPlan, scorer: _Scorer, seed: int) -> dict[str, Any]:
    """Search for one seed of DARE's masks; gives its part of the record."""
    found = plan.procedure.run(lambda options: scorer(options, seed))
    log.info(
        "best of %d: %s with %s %.2f",
        found.evaluations,
        _told(plan, found.options, seed),
        plan.procedure.metric,
        found.value,
    )
    return seed_record(seed, found)


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
    return tests[best_seed(seeds)["seed"]], tests
