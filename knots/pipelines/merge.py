"""Merge adapters and measure the result.

`run_merge` answers one question and, before it, the two that its answer is compared with: the base as it is,
and every task by its own adapter. Each answer is a run of its own and is found again if it is there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from knots.adapters import Adapter, save_adapter
from knots.drafts import writing
from knots.evaluation import EvaluationResult, Predictor, evaluate, summarize
from knots.evaluation.saved import SavedCounts
from knots.pipelines.bench import make_trainer, merged, predictor_of, workshop_for
from knots.pipelines.bounds import alone, choice_note, own_heads, settled
from knots.pipelines.identity import merge_identity
from knots.pipelines.plans import BASELINES, MergePlan
from knots.pipelines.rehearsal import published_references, rehearse
from knots.pipelines.workshop import Workshop
from knots.reporting.comparison import Comparison
from knots.reporting.figures import result_figure, save_figure
from knots.runs import PREDICTIONS, Run, find_run, is_first_process, run_id

log = logging.getLogger(__name__)

ADAPTER = "adapter"
"""The folder of the merge in a run's folder."""


@dataclass(frozen=True)
class Outcome:
    """A run and the baselines it is compared with."""

    run: Run
    baselines: Mapping[str, Run]

    @property
    def comparison(self) -> Comparison:
        """Their numbers, ready for tables and figures."""
        return Comparison(self.run.metrics, {kind: run.metrics for kind, run in self.baselines.items()})


def run_merge(plan: MergePlan, console: Console | None = None, workshop: Workshop | None = None) -> Outcome:
    """Merge the adapters as planned and measure the result; what is finished already is read, not run.

    Args:
        plan: what to run.
        console: where progress bars are drawn; None draws none.
        workshop: what runs of this model and suite share, where this is one of several.

    Returns:
        The run and its baselines, each in a folder of its own below `plan.root`.

    Raises:
        KnotsError: options, adapters, model and suite do not fit together, or a folder cannot be written.
            A mistake in the options or the adapters shows before anything is evaluated.
    """
    shop, console = workshop or workshop_for(plan, keeps=False), console or Console(quiet=True)
    chosen = settled(plan, lambda one: run_merge(one, console, shop).run.metrics)
    assert chosen is not None
    plan = chosen
    if plan.force or finished_run(plan, shop) is None:
        rehearse(plan, shop)
    baselines = baseline_answers(plan, shop, console)
    found = answer(plan, shop, baselines, console)
    return Outcome(found.run, {kind: base.run for kind, base in baselines.items()})


def finished_outcome(plan: MergePlan, workshop: Workshop) -> Outcome | None:
    """The outcome of a plan whose run and baselines are all finished; None if one of them is not."""
    chosen = settled(plan, lambda one: _finished_metrics(one, workshop))
    if chosen is None:
        return None
    plan, runs = chosen, {}
    for kind, asked in {**{kind: plan.baseline(kind) for kind in BASELINES[plan.kind]}, "": plan}.items():
        found = finished_run(asked, workshop)
        if found is None:
            return None
        runs[kind] = found
    return Outcome(runs.pop(""), runs)


def finished_run(plan: MergePlan, workshop: Workshop) -> Run | None:
    """A plan's run alone, without its baselines; None if it is not finished."""
    return find_run(plan.root, run_id(run_identity(plan, workshop)))


@dataclass(frozen=True)
class Answer:
    """A run and its counts and predictions."""

    run: Run
    result: EvaluationResult

    def of(self, plan: MergePlan) -> Answer:
        """The part of a baseline's answer that the same baseline over fewer tasks would give.

        Its run is the one that the numbers come from, which is over more tasks.

        Args:
            plan: of the baseline over these tasks.

        Raises:
            KnotsError: as `EvaluationResult.of`.
        """
        result = self.result.of(plan.suite)
        return Answer(replace(self.run, metrics=_summary(plan, result, {}, None)), result)


def baseline_answers(plan: MergePlan, shop: Workshop, console: Console) -> dict[str, Answer]:
    """What a plan's run is compared with; what is not there yet is made."""
    return {kind: answer(plan.baseline(kind), shop, {}, console) for kind in BASELINES[plan.kind]}


def run_identity(plan: MergePlan, shop: Workshop) -> dict[str, Any]:
    """What determines the result of a plan's run, as plain values; its id is made from it."""
    adapters = shop.adapters if plan.kind != "zero_shot" else ()
    parts = (shop.base.identity, shop.text, adapters, shop.reading, own_heads(plan, shop))
    return merge_identity(plan, *parts, alone(plan, shop))


def _finished_metrics(plan: MergePlan, shop: Workshop) -> Mapping[str, Any] | None:
    found = finished_run(plan, shop)
    return None if found is None else found.metrics


def answer(plan: MergePlan, shop: Workshop, baselines: Mapping[str, Answer], console: Console) -> Answer:
    """Read the run if it is finished, else make it.

    Args:
        plan: the run.
        shop: what it shares with others.
        baselines: kind -> what the run is compared with, on the same items.
        console: where its bar is drawn.
    """
    identity = run_identity(plan, shop)
    name = run_id(identity)
    found = None if plan.force else find_run(plan.root, name)
    if found is not None:
        log.info("%s is finished already: %s", plan.label, found.folder)
        if plan.kind == "merged" and plan.keep_adapter and not (found.folder / ADAPTER).is_dir():
            log.info("%s has no adapter with it; force=true makes the run again and keeps it", found.run_id)
        return Answer(found, _stored_result(found))
    saved = SavedCounts(plan.root / f".{name}.tasks")
    if plan.force:
        saved.remove()
    with writing(plan.root, name, config=plan.config, identity=identity) as draft:
        if plan.kind == "merged":
            _say_options(plan)
        log.info("%s: evaluating on the %s split of %s", plan.label, plan.scoring.split, plan.suite.name)
        result, cost = _evaluate(plan, shop, console, saved.folder)
        if result.speed is not None:
            log.info("%s: %s", result.kind, result.speed)
            draft.measured |= {"device": result.speed.device, "speed": asdict(result.speed)}
        metrics = _summary(plan, result, {kind: base.result for kind, base in baselines.items()}, cost)
        result.predictions.to_parquet(draft.folder / PREDICTIONS, index=False)
        if result.adapter is not None and plan.keep_adapter:
            _keep_adapter(result.adapter, draft.folder)
        compared = {kind: base.run.metrics for kind, base in baselines.items()}
        save_figure(result_figure(Comparison(metrics, compared)), draft.folder / "figures", "accuracy")
        draft.metrics.update(metrics)
    if is_first_process():
        saved.remove()
    return Answer(Run(plan.root / name, metrics, fresh=True), result)


def _say_options(plan: MergePlan) -> None:
    """Whether the options are tuned ones, and what they are."""
    chosen = ", ".join(f"{key} {plan.options[key]:g}" for key in ("scale", "density", "drop"))
    source = plan.description["source"]
    if source:
        told = source if source.startswith("search") else f"published for {plan.model.name}: {source}"
        log.info("options: %s (%s)", chosen, told)
        for other in plan.config["merge"].get("also") or ():
            log.info("also published: %s", _other_options(other))
    else:
        log.info(
            "no tuned options are published for %s on %s; using neutral ones where none are given: %s",
            plan.label,
            plan.model.name,
            chosen,
        )


def _other_options(other: Mapping[str, Any]) -> str:
    """Options that another source gives for the same pair, and how to ask for them."""
    options = {key: value for key, value in other.items() if key != "source"}
    shown = ", ".join(f"{key} {value:g}" for key, value in options.items())
    asked = " ".join(f"merge.{key}={value:g}" for key, value in options.items())
    return f"{shown} ({other['source']}); {asked}"


def _evaluate(
    plan: MergePlan, shop: Workshop, console: Console, kept: Path
) -> tuple[EvaluationResult, float | None]:
    """Score the plan's predictor; also what shortening the merge cost, where it was shortened."""
    costs: list[float] = []

    def make(device: torch.device) -> Adapter:
        adapter, cost = merged(plan, shop, device)
        if cost is not None:
            log.info("shortened to rank %d; relative error %.2g", plan.max_rank, cost)
            costs.append(cost)
        return adapter

    result = score(plan, shop, predictor_of(plan, shop, make), console, kept=kept)
    return result, costs[0] if costs else None


def score(
    plan: MergePlan, shop: Workshop, predictor: Predictor, console: Console, *, kept: Path | None = None
) -> EvaluationResult:
    """Evaluate a predictor as a plan says; `kept` as `evaluate` takes it."""
    return evaluate(
        shop.model,
        plan.suite,
        predictor,
        mode=plan.scoring.mode,
        protocol=plan.scoring.protocol,
        split=plan.scoring.split,
        cache_dir=plan.cache_dir,
        batch_size=plan.scoring.batch_size,
        trainer=make_trainer(plan, plan.label, console),
        heads=own_heads(plan, shop) or shop.class_heads,
        reading=shop.reading,
        kept=kept,
    )


def _summary(
    plan: MergePlan, result: EvaluationResult, baselines: Mapping[str, EvaluationResult], cost: float | None
) -> dict[str, Any]:
    """The content of `metrics.json`. A baseline is its own reference."""
    known = {**baselines, plan.kind: result}
    metrics = summarize(
        result,
        model=plan.model.name,
        merge={**plan.description, "max_rank_error": cost},
        seed=plan.seed,
        zero_shot=known.get("zero_shot"),
        finetuned=known.get("finetuned"),
        published=published_references(plan),
    )
    return {**metrics, "notes": [*metrics["notes"], *choice_note(plan)]}


def _keep_adapter(adapter: Adapter, folder: Path) -> None:
    """Save the merge, if there is anything to save."""
    updates = {name: update.to("cpu") for name, update in adapter.updates.items()}
    if all(not bool(update.dense().any()) for update in updates.values()):
        log.warning("the merge changes nothing (every update is zero), so no adapter is saved")
        return
    save_adapter(replace(adapter, updates=updates), folder / ADAPTER)


def _stored_result(run: Run) -> EvaluationResult:
    """Counts and predictions of a finished run, as a baseline needs them; without the joint counts."""
    metrics = run.metrics
    predictions = run.predictions()
    tasks = tuple(metrics["per_task"])
    right = (predictions["prediction"] == predictions["label"]).to_numpy(dtype=bool, na_value=False)
    correct = [int(right[(predictions["task"] == task).to_numpy()].sum()) for task in tasks]
    return EvaluationResult(
        suite=metrics["suite"],
        kind=metrics["merge"]["kind"],
        modality=metrics.get("modality", "vision"),
        mode=metrics["mode"],
        protocol=metrics["protocol"],
        split=metrics["split"],
        tasks=tasks,
        n=np.array([metrics["per_task"][task]["n"] for task in tasks], dtype=np.int64),
        correct=None if metrics["mode"] == "joint" else np.array(correct, dtype=np.int64),
        joint=None,
        predictions=predictions,
        unscored=metrics["unscored"],
        adapter=None,
        notes=tuple(metrics["notes"]),
    )
