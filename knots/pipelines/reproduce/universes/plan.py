"""What a table over universes is made of, checked: which methods, on which sets of adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from knots.errors import KnotsError
from knots.pipelines.analyze import AnalysisPlan, parse_analysis
from knots.pipelines.model_plan import parse_model
from knots.pipelines.plans import MergePlan
from knots.pipelines.reproduce.experiment import Compose, Experiment
from knots.pipelines.reproduce.methods import METHOD_KEYS, parse_methods
from knots.pipelines.reproduce.table_plan import MethodPlan, merge_of
from knots.pipelines.search.plan import SearchPlan
from knots.pipelines.values import check_keys, flag, names_of, whole
from knots.reporting.published import Published

KEYS = ("name", "kind", "title", *METHOD_KEYS, "universes", "shared_init", "similarity")

LEAST = 2
"""Universes from which anything can be said of others."""


@dataclass(frozen=True)
class UniversesPlan:
    """One table over universes.

    Attributes:
        experiment: its name and place.
        rows: method -> its run, or the search for its options, in any universe.
        universes: numbers of the sets of adapters.
        inits: values of `shared_init`, each with a table of its own.
        similarity: the comparison of a set's updates; None for none.
    """

    experiment: Experiment
    rows: Mapping[str, MethodPlan]
    universes: tuple[int, ...]
    inits: tuple[bool, ...]
    similarity: AnalysisPlan | None

    @property
    def first(self) -> MergePlan:
        """The first method's run, which says what all have in common."""
        return merge_of(next(iter(self.rows.values())))


def parse_universes(
    experiment: Experiment, values: Mapping[str, Any], compose: Compose, published: Published
) -> UniversesPlan:
    """Read the configuration of a table over universes.

    Args:
        experiment: its name and place.
        values: plain values with the keys of a file of this kind in `conf/experiment/`.
        compose: composes a method's configuration, and that of the comparison.
        published: not looked at: nothing was published over sets of adapters.

    Raises:
        KnotsError: a key is unknown or a value has the wrong type, or a universe is not there; or as
            `parse_methods` and `parse_analysis`.
    """
    del published
    check_keys("experiment", values, KEYS)
    rows = parse_methods(values, compose, modes=("per_task", "all"))
    universes = parse_numbers(values["universes"])
    inits = _parse_inits(values["shared_init"])
    for universe in universes:
        for shared_init in inits:
            for row in rows.values():
                in_universe(row, universe, shared_init)
    similarity = values["similarity"]
    if similarity is not None:
        similarity = parse_analysis(compose("analyze", names_of("experiment.similarity", similarity)))
    return UniversesPlan(experiment, rows, universes, inits, similarity)


def parse_numbers(given: object, *, least: int = LEAST) -> tuple[int, ...]:
    """The universes of `experiment.universes`.

    Raises:
        KnotsError: it is no list of different whole numbers, `least` of them at least.
    """
    where = "experiment.universes"
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise KnotsError(f"{where}={given!r}; a list of whole numbers is needed, as [0,1,2]")
    universes = tuple(whole(where, number, least=0) for number in given)
    if len(set(universes)) < max(least, len(universes)):
        raise KnotsError(f"{where}={list(universes)}; at least {least} different ones are needed")
    return universes


def _parse_inits(given: object) -> tuple[bool, ...]:
    listed = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    inits = tuple(flag("experiment.shared_init", value) for value in listed)
    if not inits or len(set(inits)) < len(inits):
        raise KnotsError(f"experiment.shared_init={given!r}; true, false or [true,false] is needed")
    return inits


def in_universe(row: MethodPlan, universe: int, shared_init: bool = True) -> MethodPlan:
    """A method on another set of adapters, as `experiments/merge.py universe=...` runs it.

    Raises:
        KnotsError: the model has no such set.
    """
    if isinstance(row, SearchPlan):
        merge = in_universe(row.merge, universe, shared_init)
        assert isinstance(merge, MergePlan)
        return replace(row, merge=merge, config=_config(row.config, universe, shared_init))
    config = _config(row.config, universe, shared_init)
    model = parse_model(config["model"], config["adapters"], universe=universe, shared_init=shared_init)
    for task in row.suite.task_names:
        model.adapter_of(task)
    return replace(row, model=model, config=config)


def analysis_in(plan: AnalysisPlan, universe: int, shared_init: bool = True) -> AnalysisPlan:
    """A comparison of another set's updates, and of full fine-tunes where those are sets too."""
    config = _config(plan.config, universe, shared_init)
    model = parse_model(config["model"], config["adapters"], universe=universe, shared_init=shared_init)
    full = plan.full
    if full is not None and full.universe is not None:
        full = replace(full, universe=universe)
    return replace(plan, model=model, full=full, config=config)


def _config(config: Mapping[str, Any], universe: int, shared_init: bool) -> dict[str, Any]:
    return {**config, "universe": universe, "shared_init": shared_init}
