"""A miniature of the paper's six language tasks: pairs of short sentences, made by this package.

Three tasks have all three labels, two have no neutral and one has no contradiction, as the real six. Every
pair is about a small world, whose facts (`words`) a model must know and whose sentences it must read.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from knots.errors import KnotsError, unknown
from knots.suites.mini_nli import answers, comparisons, counts, facts, quantifiers, scenes
from knots.suites.mini_nli.dice import Dice

VERSION = 1
"""Raised whenever a pair changes: everything cached or measured from older ones is out of date."""

SHARE: Mapping[str, tuple[int, ...]] = {"train": (0, 1), "validation": (2,), "test": (3,)}
"""Which quarters of all worlds belong to a split."""


class World(Protocol):
    """A small world in words, and what can be claimed of it."""

    @property
    def text(self) -> str:
        """What is told."""

    def claim(self, label: int, dice: Dice) -> str:
        """A second sentence that has this label."""


class Worlds(Protocol):
    """Where worlds of one kind come from."""

    def draw(self, dice: Dice, short: bool = False) -> World:
        """A random one; a short one tells as little as makes sense, which no task does."""


@dataclass(frozen=True)
class Source:
    """What one task is made of.

    Attributes:
        worlds: draws what the first sentence tells.
        labels: those that occur.
        asks: whether the claim is a question, which comes first.
    """

    worlds: Worlds
    labels: tuple[int, ...]
    asks: bool = False


TASKS: Mapping[str, Source] = {
    "scenes": Source(scenes.Scene, scenes.LABELS),
    "comparisons": Source(comparisons.Comparison, comparisons.LABELS),
    "quantifiers": Source(quantifiers.Quantity, quantifiers.LABELS),
    "answers": Source(answers.Event, answers.LABELS, asks=True),
    "counts": Source(counts.Count, counts.LABELS),
    "facts": Source(facts.Fact, facts.LABELS),
}


def draw_pairs(
    task_name: str, split: str, n: int, seed: int
) -> tuple[list[str], list[str], npt.NDArray[np.int64]]:
    """Draw one split: first sentences, second sentences, and labels int64 [n].

    A label is 0 (entailment), 1 (neutral) or 2 (contradiction); a task's labels are about equally frequent.
    No two splits share a world, whatever their seeds.

    Raises:
        KnotsError: the task or split does not exist, or n or seed is negative.
    """
    if task_name not in TASKS:
        raise unknown("miniature task", task_name, TASKS)
    if split not in SHARE:
        raise unknown("split", split, SHARE)
    if n < 0 or seed < 0:
        raise KnotsError(f"{task_name}: n {n} and seed {seed} must not be negative")
    source = TASKS[task_name]
    dice = Dice(seed, list(TASKS).index(task_name), list(SHARE).index(split))
    labels = [dice.pick(source.labels) for _ in range(n)]
    pairs = []
    for label in labels:
        world = draw_world(source, split, dice)
        pair = (world.text, world.claim(label, dice))
        pairs.append(pair[::-1] if source.asks else pair)
    return [first for first, _ in pairs], [second for _, second in pairs], np.array(labels, dtype=np.int64)


def draw_world(source: Source, split: str, dice: Dice, short: bool = False) -> World:
    """A random world that belongs to a split."""
    while True:
        world = source.worlds.draw(dice, short)
        if zlib.crc32(world.text.encode()) % 4 in SHARE[split]:
            return world
