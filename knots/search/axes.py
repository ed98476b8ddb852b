"""What all procedures speak of: options, axes, values, and the best that was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Options = Mapping[str, float]
"""Merge options by name, such as {"scale": 0.6, "density": 0.2}."""

Score = Callable[[Options], float]
"""The value of a candidate, in percent; the larger the better. The same options have the same value."""


@dataclass(frozen=True)
class Axis:
    """One option and the values that are tried, in their order.

    Attributes:
        name: of the option.
        values: at least one.
    """

    name: str
    values: tuple[float, ...]

    def edge(self, value: float) -> str | None:
        """Whether a value is the "low" or the "high" end of the axis; None within it, or if there is one."""
        return edge_of(value, min(self.values), max(self.values))


def edge_of(value: float, low: float, high: float) -> str | None:
    """Which end of a range a value is at, "low" or "high"; None within it, or of a range of one value."""
    if low == high:
        return None
    return {low: "low", high: "high"}.get(value)


@dataclass(frozen=True)
class Found:
    """The best candidate of a search.

    Attributes:
        options: of the candidate.
        value: in percent.
        tried: the candidates in the order in which they were first asked for, with their values.
        edge: option -> which end of its axis the best is at, "low" or "high"; None within it.
    """

    options: Options
    value: float
    tried: tuple[tuple[Options, float], ...]
    edge: Mapping[str, str | None]

    @property
    def evaluations(self) -> int:
        """Number of different candidates."""
        return len(self.tried)


class Asked:
    """A score that remembers what it was asked for, so that no candidate is scored twice."""

    def __init__(self, score: Score) -> None:
        self._score = score
        self._known: dict[tuple[tuple[str, float], ...], tuple[Options, float]] = {}

    def __call__(self, options: Options) -> float:
        """The value of a candidate."""
        key = tuple(sorted(options.items()))
        if key not in self._known:
            self._known[key] = (dict(options), self._score(options))
        return self._known[key][1]

    @property
    def tried(self) -> tuple[tuple[Options, float], ...]:
        """Every candidate once, in order."""
        return tuple(self._known.values())
