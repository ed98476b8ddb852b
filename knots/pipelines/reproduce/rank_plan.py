"""What a figure over LoRA ranks is made of, checked: whose adapters, how trained, merged by what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from knots.errors import KnotsError
from knots.finetuning import FinetuningPlan, parse_plan
from knots.pipelines.plans import MergePlan
from knots.pipelines.reproduce.experiment import Compose, Experiment
from knots.pipelines.reproduce.methods import METHOD_KEYS, parse_methods
from knots.pipelines.reproduce.table_plan import MethodPlan, Paper, merge_of, parse_paper
from knots.pipelines.search.plan import SearchPlan
from knots.pipelines.values import check_keys, names_of, number, text, whole
from knots.reporting.published import Published

KEYS = ("name", "kind", "title", "paper", *METHOD_KEYS, "ranks", "adapters", "training")
TRAINING = ("recipe", "learning_rates")


@dataclass(frozen=True)
class RanksPlan:
    """One figure over ranks.

    Attributes:
        experiment: its name and place.
        rows: method -> its run, or the search for its options, on the model's own adapters.
        ranks: of the adapters, in the order of the columns.
        adapters: folder or hub id with `{rank}` and `{task}`; None where they are trained.
        recipes: rank -> how its adapters are trained; empty where they are not.
        paper: what it is compared with; None for nothing.
        published: all published figures.
    """

    experiment: Experiment
    rows: Mapping[str, MethodPlan]
    ranks: tuple[int, ...]
    adapters: str | None
    recipes: Mapping[int, FinetuningPlan]
    paper: Paper | None
    published: Published

    @property
    def first(self) -> MergePlan:
        """The first method's run, which says what all have in common."""
        return merge_of(next(iter(self.rows.values())))

    def folder(self, rank: int) -> Path:
        """Where the adapters of a rank go that are trained."""
        return self.experiment.root / "finetune" / f"{self.first.model.name}_rank_{rank}"

    def place(self, rank: int) -> str:
        """Where the adapters of a rank are, with `{task}`."""
        if self.adapters is not None:
            return self.adapters.replace("{rank}", str(rank))
        return f"{self.folder(rank)}/{{task}}"

    def row_at(self, row: MethodPlan, rank: int) -> MethodPlan:
        """A method on the adapters of a rank."""
        return _on(row, self.place(rank), trained=self.adapters is None)


def _on(row: MethodPlan, adapters: str, *, trained: bool) -> MethodPlan:
    """A method on other adapters, as `experiments/merge.py adapters=...` runs it.

    Folders of our own training are named after the tasks, and have heads and their own base with them.
    """
    if isinstance(row, SearchPlan):
        merge = _on(row.merge, adapters, trained=trained)
        assert isinstance(merge, MergePlan)
        return replace(row, merge=merge, config={**row.config, "adapters": adapters})
    own: dict[str, Any] = {"updates": "lora", "spelling": {}, "heads": None, "pretrained": None}
    model = replace(row.model, adapters=adapters, **(own if trained else {}))
    return replace(row, model=model, config={**row.config, "adapters": adapters})


def parse_ranks(
    experiment: Experiment, values: Mapping[str, Any], compose: Compose, published: Published
) -> RanksPlan:
    """Read the configuration of a figure over ranks.

    Args:
        experiment: its name and place.
        values: plain values with the keys of a file of this kind in `conf/experiment/`.
        compose: composes a method's configuration, and the recipe of each rank.
        published: all published figures.

    Raises:
        KnotsError: a key is unknown or a value has the wrong type; or as `parse_methods` and `parse_plan`.
    """
    check_keys("experiment", values, KEYS)
    ranks = _ranks(values["ranks"])
    adapters = values["adapters"]
    if adapters is not None:
        for part in ("{rank}", "{task}"):
            if part not in text("experiment.adapters", adapters):
                raise KnotsError(f"experiment.adapters={adapters!r} has no {part}")
    recipes = _recipes(ranks, values["training"], compose) if adapters is None else {}
    rows = parse_methods(values, compose)
    return RanksPlan(experiment, rows, ranks, adapters, recipes, parse_paper(values["paper"]), published)


def _ranks(given: object) -> tuple[int, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise KnotsError(f"experiment.ranks={given!r}; a list of whole numbers is needed, as [4,16]")
    ranks = tuple(whole("experiment.ranks", rank) for rank in given)
    if len(set(ranks)) < len(ranks):
        raise KnotsError(f"experiment.ranks={list(ranks)}; a rank is there twice")
    return ranks


def _recipes(ranks: Sequence[int], training: object, compose: Compose) -> dict[int, FinetuningPlan]:
    """How the adapters of each rank are trained."""
    if not isinstance(training, Mapping):
        raise KnotsError(f"experiment.training={training!r}; give it, or experiment.adapters")
    check_keys("experiment.training", training, TRAINING)
    common = names_of("experiment.training.recipe", training["recipe"])
    rates = training["learning_rates"] or {}
    recipes = {}
    for rank in ranks:
        own = [f"finetune.rank={rank}"]
        if rank in rates:
            rate = number(f"experiment.training.learning_rates.{rank}", rates[rank])
            own.append(f"finetune.learning_rate={rate}")
        recipes[rank] = parse_plan(compose("finetune", [*common, *own])["finetune"])
        if recipes[rank].kind != "lora":
            raise KnotsError(f"experiment.training.recipe={common}: only LoRA has a rank; use finetune=lora")
    return recipes
