"""What a figure over numbers of tasks is made of, checked: which methods merge which subsets of the tasks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from knots.errors import KnotsError
from knots.pipelines.reproduce.experiment import Compose, Experiment
from knots.pipelines.reproduce.methods import METHOD_KEYS, parse_methods
from knots.pipelines.reproduce.table_plan import MethodPlan, Paper, merge_of, parse_paper
from knots.pipelines.values import check_keys, whole
from knots.randomness import named_generator
from knots.reporting.published import Published

Subset = tuple[str, ...]
"""Names of tasks, in the suite's order."""

LEAST = 2
"""Tasks that make a merge."""

KEYS = ("name", "kind", "title", "paper", *METHOD_KEYS, "limit", "seed")


@dataclass(frozen=True)
class CountsPlan:
    """One figure over numbers of tasks.

    Attributes:
        experiment: its name and place.
        rows: method -> its run over all tasks, or the search for its options over all tasks.
        subsets: number of tasks -> those that are merged together.
        limit: the most subsets of a number.
        seed: of their draw.
        paper: where averages over all tasks were published; None for nowhere.
        published: all published figures.
    """

    experiment: Experiment
    rows: Mapping[str, MethodPlan]
    subsets: Mapping[int, tuple[Subset, ...]]
    limit: int
    seed: int
    paper: Paper | None
    published: Published

    @property
    def first(self) -> MethodPlan:
        """The first method's plan, which says what all have in common."""
        return next(iter(self.rows.values()))

    @property
    def every_subset(self) -> list[Subset]:
        """All of them, the smallest first."""
        return [subset for subsets in self.subsets.values() for subset in subsets]


def parse_counts(
    experiment: Experiment, values: Mapping[str, Any], compose: Compose, published: Published
) -> CountsPlan:
    """Read the configuration of a figure over numbers of tasks.

    Args:
        experiment: its name and place.
        values: plain values with the keys of a file of this kind in `conf/experiment/`.
        compose: composes a method's configuration.
        published: all published figures.

    Raises:
        KnotsError: a key is unknown or a value has the wrong type; or as `parse_methods`.
    """
    check_keys("experiment", values, KEYS)
    limit = whole("experiment.limit", values["limit"])
    seed = whole("experiment.seed", values["seed"], least=0)
    rows = parse_methods(values, compose)
    tasks = merge_of(next(iter(rows.values()))).suite.task_names
    if len(tasks) < LEAST:
        raise KnotsError(f"experiment.common: tasks={list(tasks)}; at least {LEAST} tasks are needed")
    counts = range(LEAST, len(tasks) + 1)
    subsets = {count: draw_subsets(tasks, count, limit=limit, seed=seed) for count in counts}
    return CountsPlan(experiment, rows, subsets, limit, seed, parse_paper(values["paper"]), published)


def draw_subsets(tasks: Sequence[str], count: int, *, limit: int, seed: int) -> tuple[Subset, ...]:
    """Distinct subsets of `count` tasks, in the order of the tasks; all of them where they are few.

    What is drawn depends on nothing but seed, count and the tasks' names; a larger limit only adds to it.

    Args:
        tasks: names of all T tasks.
        count: of tasks in a subset, 1 to T.
        limit: the most subsets.
        seed: of the draw.
    """
    total = math.comb(len(tasks), count)
    order = torch.randperm(total, generator=named_generator(seed, str(count), *tasks)).tolist()
    chosen = set(order[:limit])
    every = enumerate(itertools.combinations(tasks, count))
    return tuple(subset for place, subset in every if place in chosen)
