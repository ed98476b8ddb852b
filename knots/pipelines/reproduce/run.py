"""The paper's experiments: run what is missing, put it beside what was published, and keep both together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from knots.pipelines.reproduce.claims import parse_claims, run_claims
from knots.pipelines.reproduce.count_plan import parse_counts
from knots.pipelines.reproduce.counts import run_counts
from knots.pipelines.reproduce.experiment import Compose, Experiment, Product, keep
from knots.pipelines.reproduce.rank_plan import parse_ranks
from knots.pipelines.reproduce.ranks import run_ranks
from knots.pipelines.reproduce.similarity import parse_similarity, run_similarity
from knots.pipelines.reproduce.table_plan import parse_table
from knots.pipelines.reproduce.tables import run_table
from knots.pipelines.reproduce.universes import parse_universes, run_universes
from knots.pipelines.values import choice, flag, text
from knots.reporting.published import Published
from knots.runs import Run

Parse = Callable[[Experiment, Mapping[str, Any], Compose, Published], Any]

KINDS: Mapping[str, tuple[Parse, Callable[[Any, Console], Product]]] = {
    "table": (parse_table, run_table),
    "similarity": (parse_similarity, run_similarity),
    "counts": (parse_counts, run_counts),
    "ranks": (parse_ranks, run_ranks),
    "universes": (parse_universes, run_universes),
    "claims": (parse_claims, run_claims),
}
"""Kinds of experiments: what reads their configuration, and what runs them."""


@dataclass(frozen=True)
class Reproduction:
    """An experiment that is ready to run.

    Attributes:
        experiment: its name and place.
        plan: what it is made of, as its kind's own reader gave it.
        make: runs it.
    """

    experiment: Experiment
    plan: Any
    make: Callable[[Console], Product]


@dataclass(frozen=True)
class Reproduced:
    """What an experiment found.

    Attributes:
        run: the folder with its tables and figures.
        product: the same in memory.
    """

    run: Run
    product: Product


def parse_experiment(config: Mapping[str, Any], compose: Compose, published: Published) -> Reproduction:
    """Read the configuration of `experiments/reproduce.py`.

    Args:
        config: plain values with the keys of `conf/reproduce.yaml`.
        compose: composes the configurations of its runs.
        published: the figures that it is compared with.

    Raises:
        KnotsError: the kind is unknown, or as the kind's own reader.
    """
    values = config["experiment"]
    parse, run = KINDS[choice("experiment.kind", values.get("kind"), KINDS)]
    experiment = Experiment(
        name=text("experiment.name", values["name"]),
        title=text("experiment.title", values["title"]),
        root=Path(config["paths"]["output_dir"]).expanduser(),
        config=config,
        run=flag("run", config["run"]),
    )
    plan = parse(experiment, values, compose, published)
    return Reproduction(experiment, plan, partial(run, plan))


def run_experiment(plan: Reproduction, console: Console | None = None) -> Reproduced:
    """Run what is missing and write the experiment's folder, also where a part could not be run.

    Args:
        plan: the experiment.
        console: where bars are drawn; None draws none.
    """
    product = plan.make(console or Console(quiet=True))
    return Reproduced(keep(plan.experiment, product), product)
