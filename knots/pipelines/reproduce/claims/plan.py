"""What a claims card is made of, checked: methods over universes, ranks, subsets of tasks, fine-tunes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from knots.errors import KnotsError
from knots.finetuning import FinetuningPlan, parse_plan
from knots.pipelines.analyze import AnalysisPlan, parse_analysis
from knots.pipelines.plans import MergePlan
from knots.pipelines.reproduce.count_plan import Subset, draw_subsets
from knots.pipelines.reproduce.experiment import Compose, Experiment
from knots.pipelines.reproduce.methods import METHOD_KEYS, parse_methods
from knots.pipelines.reproduce.table_plan import MethodPlan, Paper, merge_of, parse_paper
from knots.pipelines.reproduce.universes.plan import in_universe, parse_numbers
from knots.pipelines.values import check_keys, names_of, number, text, whole
from knots.reporting.published import Published

KEYS = (
    *("name", "kind", "title", "paper", *METHOD_KEYS, "universes"),
    *("training", "similarity", "ranks", "counts", "large_scale"),
)
SIMILARITY = ("common", "train")
RANKS = ("common", "rows", "adapters")
COUNTS = ("rows", "subsets", "seed")


@dataclass(frozen=True)
class SimilarityPart:
    """Full fine-tunes to put beside the adapters, as Figure 2 does.

    Attributes:
        analysis: the comparison, in any universe; its full fine-tunes have `{universe}` in their place.
        recipe: how they are trained in universe 0; in others with another seed.
        folder: of all universes.
    """

    analysis: AnalysisPlan
    recipe: FinetuningPlan
    folder: Path


@dataclass(frozen=True)
class RanksPart:
    """Adapters of several ranks, as Figure 4 has.

    Attributes:
        rows: rank -> method -> its run or search, in any universe.
    """

    rows: Mapping[int, Mapping[str, MethodPlan]]


@dataclass(frozen=True)
class CountsPart:
    """Merges of some of the tasks, as Figure 3 has.

    Attributes:
        rows: the methods.
        subsets: number of tasks -> those that are merged together.
    """

    rows: tuple[str, ...]
    subsets: Mapping[int, tuple[Subset, ...]]


@dataclass(frozen=True)
class Training:
    """Adapters that are trained here where they are missing.

    Attributes:
        recipe: of universe 0; in others with another seed.
        folder: of all universes.
    """

    recipe: FinetuningPlan
    folder: Path


@dataclass(frozen=True)
class ClaimsPlan:
    """One claims card.

    Attributes:
        experiment: its name and place.
        rows: method -> its run, or the search for its options, in any universe.
        universes: numbers of the sets of adapters; a single one says nothing of others.
        training: how missing adapters are trained; None where all are there.
        similarity: None leaves out the claims about CKA.
        ranks: None leaves out the claim about ranks.
        counts: None leaves out the claim about the number of tasks.
        large_scale: the scale at which a merge is expected to be useless; None leaves that claim out.
        paper: where the claims' numbers were published.
        published: all published figures.
    """

    experiment: Experiment
    rows: Mapping[str, MethodPlan]
    universes: tuple[int, ...]
    training: Training | None
    similarity: SimilarityPart | None
    ranks: RanksPart | None
    counts: CountsPart | None
    large_scale: float | None
    paper: Paper | None
    published: Published

    @property
    def first(self) -> MergePlan:
        """The first method's run, which says what all have in common."""
        return merge_of(next(iter(self.rows.values())))


def parse_claims(
    experiment: Experiment, values: Mapping[str, Any], compose: Compose, published: Published
) -> ClaimsPlan:
    """Read the configuration of a claims card.

    Args:
        experiment: its name and place.
        values: plain values with the keys of a file of this kind in `conf/experiment/`.
        compose: composes the configurations of methods, analyses and trainings.
        published: all published figures.

    Raises:
        KnotsError: a key is unknown or a value has the wrong type, or a universe is not there; or as
            `parse_methods`, `parse_analysis` and `parse_plan`.
    """
    check_keys("experiment", values, KEYS)
    rows = parse_methods(values, compose, modes=("all",))
    universes = parse_numbers(values["universes"], least=1)
    for universe in universes:
        for row in rows.values():
            in_universe(row, universe)
    scale = values["large_scale"]
    return ClaimsPlan(
        experiment=experiment,
        rows=rows,
        universes=universes,
        training=_parse_training(values["training"], compose),
        similarity=_parse_similarity(values["similarity"], compose),
        ranks=_parse_ranks(values, compose),
        counts=_parse_counts(values["counts"], rows),
        large_scale=None if scale is None else number("experiment.large_scale", scale),
        paper=parse_paper(values["paper"]),
        published=published,
    )


def _parse_training(given: object, compose: Compose) -> Training | None:
    if given is None:
        return None
    config = compose("finetune", names_of("experiment.training", given))
    return Training(parse_plan(config["finetune"]), Path(config["folder"]).expanduser())


def _parse_similarity(given: object, compose: Compose) -> SimilarityPart | None:
    if given is None:
        return None
    values = _mapping("experiment.similarity", given, SIMILARITY)
    config = compose("finetune", names_of("experiment.similarity.train", values["train"]))
    folder = Path(config["folder"]).expanduser()
    common = names_of("experiment.similarity.common", values["common"])
    place = f'full.adapters="{folder}/universe_{{universe}}/{{task}}"'
    analysis = parse_analysis(compose("analyze", [*common, place]))
    return SimilarityPart(analysis, parse_plan(config["finetune"]), folder)


def _parse_ranks(values: Mapping[str, Any], compose: Compose) -> RanksPart | None:
    if values["ranks"] is None:
        return None
    part = _mapping("experiment.ranks", values["ranks"], RANKS)
    adapters = part["adapters"]
    if not isinstance(adapters, Mapping) or len(adapters) < 2:
        raise KnotsError(
            f"experiment.ranks.adapters={adapters!r}; a mapping from at least two ranks to adapters is needed"
        )
    common = names_of("experiment.ranks.common", part["common"])
    rows = {}
    for rank, place in adapters.items():
        own = [] if place is None else [f'adapters="{text(f"experiment.ranks.adapters.{rank}", place)}"']
        asked = {**values, "rows": part["rows"], "common": [*common, *own]}
        rows[whole("experiment.ranks.adapters", rank)] = parse_methods(asked, compose)
    return RanksPart(rows)


def _parse_counts(given: object, rows: Mapping[str, MethodPlan]) -> CountsPart | None:
    if given is None:
        return None
    values = _mapping("experiment.counts", given, COUNTS)
    methods = names_of("experiment.counts.rows", values["rows"])
    absent = [method for method in methods if method not in rows]
    if absent:
        raise KnotsError(
            f"experiment.counts.rows: {absent[0]} is not among experiment.rows, {', '.join(rows)}"
        )
    tasks = merge_of(next(iter(rows.values()))).suite.task_names
    wanted, seed = values["subsets"], whole("experiment.counts.seed", values["seed"], least=0)
    if not isinstance(wanted, Mapping) or not all(1 < count < len(tasks) for count in wanted):
        raise KnotsError(
            f"experiment.counts.subsets={wanted!r}; a mapping from numbers of tasks, 2 to {len(tasks) - 1}, "
            "to numbers of subsets is needed"
        )
    subsets = {
        count: draw_subsets(tasks, count, limit=whole(f"experiment.counts.subsets.{count}", limit), seed=seed)
        for count, limit in wanted.items()
    }
    return CountsPart(tuple(methods), subsets)


def _mapping(where: str, given: object, keys: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise KnotsError(f"{where}={given!r}; null, or a mapping with {', '.join(keys)}, is needed")
    check_keys(where, given, keys)
    return given


def seeded_for(recipe: FinetuningPlan, universe: int) -> FinetuningPlan:
    """The recipe of universe 0 with the seed of another."""
    return replace(recipe, seed=recipe.seed + universe)
