"""Random choices that are the same on every machine and with every version of NumPy and Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")

BLOCK = 4096
"""Numbers that are drawn at once: one by one would take ten times as long."""


class Dice:
    """Chooses from short sequences, with numbers that only `seeds` decide.

    All of it stands on PCG64's uniform numbers in [0, 1), whose stream NumPy does not change.

    Args:
        seeds: whole numbers that are not negative; other ones give another, independent stream.
    """

    def __init__(self, *seeds: int) -> None:
        self._numbers = _uniform(np.random.Generator(np.random.PCG64(np.random.SeedSequence(seeds))))

    def below(self, bound: int) -> int:
        """A whole number from 0 to bound - 1."""
        return int(next(self._numbers) * bound)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return next(self._numbers) < probability

    def pick(self, items: Sequence[Item]) -> Item:
        """One of some items."""
        return items[self.below(len(items))]

    def other(self, items: Sequence[Item], *taken: Item) -> Item:
        """One of some items that is none of `taken`."""
        return self.pick([item for item in items if item not in taken])

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """Some different items in random order."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(count)]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """All items in random order."""
        return self.sample(items, len(items))


def _uniform(rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from rng.random(BLOCK).tolist()
