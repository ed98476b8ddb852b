"""Merge adapters and measure the result.

`run_merge` answers one question and, before it, the two that its answer is compared with: the base as it is,
and every task by its own adapter. Each answer is a run of its own and is found again if it is there.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console

from knots.adapters import Adapter, load_adapter, save_adapter
from knots.adapters.shortening import shorten_all
from knots.checks import updates_by_module
from knots.errors import KnotsError
from knots.evaluation import (
    Ensemble,
    EvaluationResult,
    Finetuned,
    Merged,
    Predictor,
    ZeroShot,
    evaluate,
    summarize,
)
from knots.evaluation.calibration import collect_fishers, collect_grams
from knots.evaluation.module import LOGIT_SCALE
from knots.merging import merge
from knots.models.attach import check_modules
from knots.models.bases import Base, find_base
from knots.models.clip import Clip, clip_reading
from knots.models.families import FAMILIES
from knots.models.full import load_finetuned
from knots.models.heads import Heads, build_heads
from knots.pipelines.identity import merge_identity
from knots.pipelines.plans import MergePlan
from knots.pipelines.progress import EvaluationBar
from knots.reporting.comparison import Comparison
from knots.reporting.figures import result_figure, save_figure
from knots.runs import PREDICTIONS, Run, find_run, run_id, writing
from knots.suites.data import Reading, Sample, load_split
from knots.updates import LowRank

log = logging.getLogger(__name__)

BASELINES: Mapping[str, tuple[str, ...]] = {
    "merged": ("zero_shot", "finetuned"),
    "ensemble": ("zero_shot", "finetuned"),
    "zero_shot": (),
    "finetuned": (),
}
"""What each kind of predictor is compared with."""

CALIBRATED = {"regmean": "grams", "fisher": "fishers"}
"""Rules that look at data, and the option of `merge` that takes what they saw."""

CALIBRATION_BATCH = 32

DTYPES = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}


@dataclass(frozen=True)
class Outcome:
    """A run and the baselines it is compared with."""

    run: Run
    baselines: Mapping[str, Run]

    @property
    def comparison(self) -> Comparison:
        """Their numbers, ready for tables and figures."""
        return Comparison(self.run.metrics, {kind: run.metrics for kind, run in self.baselines.items()})


def run_merge(plan: MergePlan, console: Console | None = None) -> Outcome:
    """Merge the adapters as planned and measure the result; what is finished already is read, not run.

    Args:
        plan: what to run.
        console: where progress bars are drawn; None draws none.

    Returns:
        The run and its baselines, each in a folder of its own below `plan.root`.

    Raises:
        KnotsError: options, adapters, model and suite do not fit together, or a folder cannot be written.
            A mistake in the options or the adapters shows before anything is evaluated.
    """
    bench = Bench(plan, console or Console(quiet=True))
    if plan.force or _found(plan, bench) is None:
        rehearse(plan, bench)
    baselines = {kind: _answer(plan.baseline(kind), bench, {}) for kind in BASELINES[plan.kind]}
    answer = _answer(plan, bench, baselines)
    return Outcome(answer.run, {kind: found.run for kind, found in baselines.items()})


class Bench:
    """What the runs of one call share, each part loaded when it is first needed."""

    def __init__(self, plan: MergePlan, console: Console) -> None:
        self.plan, self.console = plan, console
        self._heads: Heads | None = None

    @cached_property
    def adapters(self) -> list[Adapter]:
        """One adapter a task, in the suite's order."""
        model, tasks = self.plan.model, self.plan.suite.task_names
        if model.updates == "full":
            return [load_finetuned(model.adapter_of(task), self.clip, name=task) for task in tasks]
        return [load_adapter(model.adapter_of(task), name=task) for task in tasks]

    @cached_property
    def base(self) -> Base:
        """Where the base is, and what tells it from others."""
        return find_base(self.plan.model.base, self.plan.model.revision)

    @cached_property
    def reading(self) -> Reading:
        """How pictures become what the base takes."""
        return clip_reading(self.base, self.plan.data)

    @cached_property
    def clip(self) -> Clip:
        """The base in the plan's precision."""
        clip = FAMILIES[self.plan.model.family].load(self.plan.model.spec)
        clip.model.to(DTYPES[self.plan.scoring.precision])
        return clip

    def heads(self, device: torch.device) -> Heads:
        """Class features of every task and of their union; embedded on `device` if they are not cached."""
        if self._heads is None:
            self._heads = build_heads(self.clip, self.plan.suite, self.plan.cache_dir, device)
        return self._heads

    def merged(self, device: torch.device) -> Adapter:
        """The merge of the adapters, with what its rule wants to know of the data."""
        return merge(
            self.adapters, **self.plan.options, **self._statistics(device), seed=self.plan.seed, device=device
        )

    def _statistics(self, device: torch.device) -> dict[str, Any]:
        """Gram matrices or Fishers, for the rules that need them."""
        plan, wanted = self.plan, self.plan.calibration
        rule = plan.options["rule"]
        if rule not in CALIBRATED or wanted is None:
            return {}
        log.info("%s: looking at %d %s images of each task", plan.label, wanted.examples, wanted.split)
        sample = Sample(wanted.examples, wanted.seed)
        splits = [
            load_split(task, wanted.split, plan.cache_dir, self.reading, sample) for task in plan.suite.tasks
        ]
        batch = min(plan.scoring.batch_size, CALIBRATION_BATCH)
        if rule == "regmean":
            grams = collect_grams(self.clip, self.adapters, splits, batch_size=batch, device=device)
            return {"grams": grams}
        fishers = collect_fishers(
            self.clip,
            self.adapters,
            self.heads(device).tasks,
            splits,
            labels=wanted.labels or "sampled",
            batch_size=batch,
            device=device,
            seed=wanted.seed,
            scale=LOGIT_SCALE,
        )
        return {"fishers": fishers}

    def trainer(self, label: str) -> L.Trainer:
        """A trainer that shows one bar and writes nothing.

        Raises:
            KnotsError: Lightning refuses the options.
        """
        bar = EvaluationBar(label, self.plan.suite.task_names, self.console)
        try:
            return L.Trainer(
                **self.plan.trainer,
                precision="32-true",
                logger=False,
                callbacks=[bar],
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
            )
        except (TypeError, ValueError, MisconfigurationException) as error:
            raise KnotsError(f"trainer={dict(self.plan.trainer)}: {error}") from error


def rehearse(plan: MergePlan, bench: Bench) -> None:
    """Find what is wrong with options and adapters before anything slow happens.

    The adapters are held against each other and against the model; `merge` is asked to take the options.

    Raises:
        KnotsError: whatever the run itself would have raised later.
    """
    _published(plan)
    if plan.kind == "zero_shot":
        return
    if plan.kind == "merged":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the merge itself says it again
            shapes = {parts[0].shape for parts in updates_by_module(bench.adapters, "cpu").values()}
            shape, tasks = min(shapes), plan.suite.task_names
            merge(_stand_ins(tasks, shape), **plan.options, **_statistics(plan, shape), seed=plan.seed)
    for adapter in bench.adapters:
        check_modules(bench.clip.tower, adapter)


def _stand_ins(tasks: Sequence[str], shape: tuple[int, int]) -> list[Adapter]:
    """Adapters of one random module [O, I], to try options on."""
    generator = torch.Generator().manual_seed(0)
    b, a = torch.randn(shape[0], 2, generator=generator), torch.randn(2, shape[1], generator=generator)
    return [Adapter(task, {"module": LowRank(b.roll(place, 0), a)}) for place, task in enumerate(tasks)]


def _statistics(plan: MergePlan, shape: tuple[int, int]) -> dict[str, Any]:
    """Stand-ins of what `Bench` collects, for the one module of `_stand_ins`.

    Raises:
        KnotsError: the rule needs data, and the configuration does not say which.
    """
    name = CALIBRATED.get(plan.options["rule"])
    if name is None:
        return {}
    if plan.calibration is None or (name == "fishers" and plan.calibration.labels is None):
        raise KnotsError(
            f"rule {plan.options['rule']!r} looks at data: give merge.calibration, as "
            "conf/merge/regmean.yaml and conf/merge/fisher.yaml do"
        )
    unit = torch.eye(shape[1]) if name == "grams" else torch.ones(shape)
    return {name: {task: {"module": unit} for task in plan.suite.task_names}}


@dataclass(frozen=True)
class Answer:
    """A run and its counts and predictions."""

    run: Run
    result: EvaluationResult


def _found(plan: MergePlan, bench: Bench) -> Run | None:
    return find_run(plan.root, run_id(_identity(plan, bench)))


def _identity(plan: MergePlan, bench: Bench) -> dict[str, Any]:
    adapters = bench.adapters if plan.kind != "zero_shot" else ()
    return merge_identity(plan, bench.base.identity, adapters, bench.reading)


def _answer(plan: MergePlan, bench: Bench, baselines: Mapping[str, Answer]) -> Answer:
    """Read the run if it is finished, else make it."""
    found = None if plan.force else _found(plan, bench)
    if found is not None:
        log.info("%s is finished already: %s", plan.label, found.folder)
        return Answer(found, _stored_result(found))
    identity = _identity(plan, bench)
    name = run_id(identity)
    with writing(plan.root, name, config=plan.config, identity=identity) as draft:
        if plan.kind == "merged":
            _say_options(plan)
        log.info("%s: evaluating on the %s split of %s", plan.label, plan.scoring.split, plan.suite.name)
        result, cost = _evaluate(plan, bench)
        if result.speed is not None:
            log.info("%s: %s", result.kind, result.speed)
            draft.measured["speed"] = asdict(result.speed)
        metrics = _summary(plan, result, {kind: base.result for kind, base in baselines.items()}, cost)
        result.predictions.to_parquet(draft.folder / PREDICTIONS, index=False)
        if result.adapter is not None:
            _keep_adapter(result.adapter, draft.folder)
        compared = {kind: base.run.metrics for kind, base in baselines.items()}
        save_figure(result_figure(Comparison(metrics, compared)), draft.folder / "figures", "accuracy")
        draft.metrics.update(metrics)
    return Answer(Run(plan.root / name, metrics, fresh=True), result)


def _say_options(plan: MergePlan) -> None:
    """Whether the options are tuned ones, and what they are."""
    chosen = ", ".join(f"{key} {plan.options[key]:g}" for key in ("scale", "density", "drop"))
    source = plan.description["source"]
    if source:
        log.info("options: %s (published for %s: %s)", chosen, plan.model.name, source)
    else:
        log.info(
            "no tuned options are published for %s on %s; using neutral ones where none are given: %s",
            plan.label,
            plan.model.name,
            chosen,
        )


def _evaluate(plan: MergePlan, bench: Bench) -> tuple[EvaluationResult, float | None]:
    """Score the plan's predictor; also what shortening the merge cost, where it was shortened."""
    costs: list[float] = []

    def merged(device: torch.device) -> Adapter:
        adapter = bench.merged(device)
        if plan.max_rank is None:
            return adapter
        short, cost = shorten_all(adapter.updates, plan.max_rank)
        log.info("shortened to rank %d; relative error %.2g", plan.max_rank, cost)
        costs.append(cost)
        return replace(adapter, updates=short)

    result = evaluate(
        bench.clip,
        plan.suite,
        _predictor(plan.kind, bench, merged),
        mode=plan.scoring.mode,
        protocol=plan.scoring.protocol,
        split=plan.scoring.split,
        cache_dir=plan.cache_dir,
        batch_size=plan.scoring.batch_size,
        trainer=bench.trainer(plan.label),
        heads=bench.heads,
        reading=bench.reading,
    )
    return result, costs[0] if costs else None


def _predictor(kind: str, bench: Bench, merged: Callable[[torch.device], Adapter]) -> Predictor:
    if kind == "merged":
        return Merged(merged)
    if kind == "ensemble":
        return Ensemble(bench.adapters)
    return Finetuned(bench.adapters) if kind == "finetuned" else ZeroShot()


def _summary(
    plan: MergePlan, result: EvaluationResult, baselines: Mapping[str, EvaluationResult], cost: float | None
) -> dict[str, Any]:
    """The content of `metrics.json`. A baseline is its own reference."""
    known = {**baselines, plan.kind: result}
    return summarize(
        result,
        model=plan.model.name,
        merge={**plan.description, "max_rank_error": cost},
        seed=plan.seed,
        zero_shot=known.get("zero_shot"),
        finetuned=known.get("finetuned"),
        published=_published(plan),
    )


def _published(plan: MergePlan) -> dict[str, float] | None:
    """Published fine-tuned accuracies in percent; None where the plan does not divide by them.

    Raises:
        KnotsError: a task has none.
    """
    if plan.scoring.normalize_by != "published" or not BASELINES[plan.kind]:
        return None
    figures = {task.name: task.published.get(plan.model.name) for task in plan.suite.tasks}
    absent = [name for name, figure in figures.items() if figure is None]
    if absent:
        raise KnotsError(
            f"normalize_by='published': suite {plan.suite.name!r} names no published fine-tuned accuracy for "
            f"{', '.join(absent)}; use normalize_by=measured"
        )
    return {name: float(figure) for name, figure in figures.items() if figure is not None}


def _keep_adapter(adapter: Adapter, folder: Path) -> None:
    """Save the merge, if there is anything to save."""
    updates = {name: update.to("cpu") for name, update in adapter.updates.items()}
    if all(not bool(update.dense().any()) for update in updates.values()):
        log.warning("the merge changes nothing (every update is zero), so no adapter is saved")
        return
    save_adapter(replace(adapter, updates=updates), folder / "adapter")


def _stored_result(run: Run) -> EvaluationResult:
    """Counts and predictions of a finished run, as a baseline needs them; without the joint counts."""
    metrics = run.metrics
    predictions = pd.read_parquet(run.folder / PREDICTIONS)
    tasks = tuple(metrics["per_task"])
    right = (predictions["prediction"] == predictions["label"]).to_numpy(dtype=bool, na_value=False)
    correct = [int(right[(predictions["task"] == task).to_numpy()].sum()) for task in tasks]
    return EvaluationResult(
        suite=metrics["suite"],
        kind=metrics["merge"]["kind"],
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
