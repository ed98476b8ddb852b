"""What runs read, found from their plans: which base, whose adapters, which items.

To add a kind of experiment: a function of its plan under `experiment_needs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import singledispatch
from pathlib import Path
from typing import Any

from knots.evaluation.routing import PROTOTYPES
from knots.finetuning import FinetuningPlan
from knots.finetuning.plan import LanguagePlan
from knots.finetuning.run import SPLITS as TRAINING_SPLITS
from knots.models.families import FAMILIES
from knots.pipelines import bounds
from knots.pipelines.analyze import AnalysisPlan
from knots.pipelines.calibration_plan import parse_calibration
from knots.pipelines.model_plan import PRECISIONS, ModelPlan
from knots.pipelines.plans import AUTO, BEST, MergePlan, parse_subject
from knots.pipelines.reproduce.claims import ClaimsPlan
from knots.pipelines.reproduce.count_plan import CountsPlan
from knots.pipelines.reproduce.rank_plan import RanksPlan
from knots.pipelines.reproduce.similarity import SimilarityPlan
from knots.pipelines.reproduce.table_plan import MethodPlan, TablePlan, merge_of
from knots.pipelines.reproduce.universes import UniversesPlan, in_universe
from knots.pipelines.reproduce.universes.plan import analysis_in
from knots.pipelines.search.plan import SearchPlan
from knots.pipelines.values import choice, flag, names_of
from knots.suites.data import DataOptions, Sample
from knots.suites.tasks import SPLITS, Suite

USUAL = ("test", "validation")
"""The splits that merges and searches score."""


@dataclass(frozen=True)
class Items:
    """Which items of each task.

    Attributes:
        split: train, validation or test.
        sample: a few of them; None is all.
    """

    split: str
    sample: Sample | None = None


@dataclass(frozen=True)
class Need:
    """What runs of one model and suite read.

    Attributes:
        model: base and adapters.
        suite: the tasks.
        precision: of the base, "32", "bf16" or "16".
        data: how pictures are read.
        cache_dir: root of the caches.
        items: what is read of every task.
        adapters: False where they are not there yet, as those that a run trains.
        multitask: the adapter that was trained on all tasks jointly, too.
        scored: False where no head is read, as in comparisons of updates.
        heads: False leaves heads to the runs: class features, which they embed, and those of adapters.
    """

    model: ModelPlan
    suite: Suite
    precision: str
    data: DataOptions
    cache_dir: Path
    items: tuple[Items, ...]
    adapters: bool = True
    multitask: bool = False
    scored: bool = True
    heads: bool = True

    def also(self, splits: Iterable[str], *, heads: bool) -> Need:
        """The same with further splits in full; heads are left out where they are not wanted."""
        items = dict.fromkeys((*self.items, *map(Items, splits)))
        return replace(self, items=tuple(items), heads=self.heads and heads)


def parse_splits(value: object) -> tuple[str, ...] | None:
    """The splits that a configuration names; None where it leaves them to the runs.

    Raises:
        KnotsError: one is unknown.
    """
    if value is None:
        return None
    return tuple(choice("splits", split, SPLITS) for split in names_of("splits", value))


def model_need(config: Mapping[str, Any]) -> Need:
    """What merges, searches, calibrations and the bounds of one model read.

    Without `splits`, those that are scored: test and validation. Of a calibration its few items are read, as
    long as the suite has that split.

    Args:
        config: plain values with the keys of `conf/prefetch.yaml`.

    Raises:
        KnotsError: a value has the wrong type, a name is unknown, or model and suite do not fit.
    """
    model, suite = parse_subject(config)
    asked, precision = parse_splits(config["splits"]), _precision(config["precision"])
    whole = asked if asked is not None else tuple(split for split in USUAL if _has(suite, split))
    shown = [parse_calibration(method["calibration"]) for method in config["calibrated"].values()]
    samples = [Items(c.split, Sample(c.examples, c.seed)) for c in shown if c and _has(suite, c.split)]
    return Need(
        model=model,
        suite=suite,
        precision=model.precision if precision == AUTO else precision,
        data=DataOptions(**config["data"]),
        cache_dir=Path(config["paths"]["cache_dir"]).expanduser(),
        items=tuple(dict.fromkeys((*map(Items, whole), *samples))),
        multitask=model.multitask is not None,
        heads=flag("heads", config["heads"]),
    )


def _precision(value: object) -> str:
    return choice("precision", str(value), (AUTO, *PRECISIONS))


def _has(suite: Suite, split: str) -> bool:
    """Whether every task has the split."""
    return all(split in task.sizes for task in suite.tasks)


def merge_need(plan: MergePlan, *, adapters: bool = True) -> Need:
    """What a run of `run_merge` and its baselines read.

    Args:
        plan: the run.
        adapters: False where they are yet to be trained.
    """
    items = [Items(plan.scoring.split)]
    if plan.adapter == BEST:
        items.append(Items(bounds.SPLIT))
    if plan.kind == "router":
        items.append(Items(PROTOTYPES))
    if plan.calibration is not None:
        shown = plan.calibration
        items.append(Items(shown.split, Sample(shown.examples, shown.seed)))
    return Need(
        model=plan.model,
        suite=plan.suite,
        precision=plan.scoring.precision,
        data=plan.data,
        cache_dir=plan.cache_dir,
        items=tuple(dict.fromkeys(items)),
        adapters=adapters,
        multitask=plan.kind == "multitask",
    )


def method_need(plan: MethodPlan, *, adapters: bool = True) -> Need:
    """What a run, or a search with its tests, reads."""
    need = merge_need(merge_of(plan), adapters=adapters)
    if not isinstance(plan, SearchPlan) or plan.test_split is None:
        return need
    return need.also([plan.test_split], heads=True)


def analysis_needs(plan: AnalysisPlan, *, adapters: bool = True, full: bool = True) -> list[Need]:
    """What a comparison of updates reads.

    Args:
        plan: the comparison.
        adapters: False where they are yet to be trained.
        full: False where the full fine-tunes are.
    """
    options = plan.options
    need = Need(
        model=plan.model,
        suite=plan.suite,
        precision=options.precision,
        data=plan.data,
        cache_dir=plan.cache_dir,
        items=(Items(options.split, Sample(options.items, options.seed)),),
        adapters=adapters,
        scored=False,
    )
    if plan.full is None or not full:
        return [need]
    return [need, replace(need, model=plan.full, items=(), adapters=True)]


def training_need(subject: MergePlan | AnalysisPlan, recipe: FinetuningPlan) -> Need:
    """What training all tasks of a plan by a recipe reads; a decoder's heads are made, not read."""
    return Need(
        model=subject.model,
        suite=subject.suite,
        precision=recipe.base_precision if isinstance(recipe, LanguagePlan) else "32",
        data=subject.data,
        cache_dir=subject.cache_dir,
        items=tuple(map(Items, TRAINING_SPLITS)),
        adapters=False,
        scored=FAMILIES[subject.model.family].modality == "vision",
    )


@singledispatch
def experiment_needs(plan: Any) -> list[Need]:
    """What an experiment reads.

    Args:
        plan: `Reproduction.plan`, of any kind.
    """
    raise TypeError(f"nobody says what a {type(plan).__name__} needs: add it to experiment_needs")


@experiment_needs.register
def _(plan: TablePlan) -> list[Need]:
    return [method_need(row.plan) for row in plan.rows]


@experiment_needs.register
def _(plan: CountsPlan) -> list[Need]:
    return [method_need(row) for row in plan.rows.values()]


@experiment_needs.register
def _(plan: SimilarityPlan) -> list[Need]:
    needs = analysis_needs(plan.analysis, full=plan.full is None)
    return needs if plan.full is None else [*needs, training_need(plan.analysis, plan.full.recipe)]


@experiment_needs.register
def _(plan: RanksPlan) -> list[Need]:
    if plan.adapters is None:
        trainings = [training_need(plan.first, recipe) for recipe in plan.recipes.values()]
        return [*(method_need(row, adapters=False) for row in plan.rows.values()), *trainings]
    return [method_need(plan.row_at(row, rank)) for rank in plan.ranks for row in plan.rows.values()]


@experiment_needs.register
def _(plan: UniversesPlan) -> list[Need]:
    needs = []
    for universe in plan.universes:
        for init in plan.inits:
            needs += [method_need(in_universe(row, universe, init)) for row in plan.rows.values()]
            if plan.similarity is not None:
                needs += analysis_needs(analysis_in(plan.similarity, universe, init))
    return needs


@experiment_needs.register
def _(plan: ClaimsPlan) -> list[Need]:
    there, similarity, needs = plan.training is None, plan.similarity, list[Need]()
    for universe in plan.universes:
        rows = [in_universe(row, universe) for row in plan.rows.values()]
        needs += [method_need(row, adapters=there) for row in rows]
        for ranked in plan.ranks.rows.values() if plan.ranks is not None else ():
            needs += [method_need(in_universe(row, universe)) for row in ranked.values()]
        if similarity is not None:
            analysis = analysis_in(similarity.analysis, universe)
            needs += analysis_needs(analysis, adapters=there, full=False)
    if plan.training is not None:
        needs.append(training_need(plan.first, plan.training.recipe))
    if similarity is not None:
        needs.append(training_need(similarity.analysis, similarity.recipe))
    return needs
