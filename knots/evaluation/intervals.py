"""95 % intervals: Wilson's for shares, a paired bootstrap over items for ratios and averages.

Shapes: T tasks, N_t items of task t, S draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from knots.errors import KnotsError

LEVEL = 0.95
DRAWS = 2000

Interval = tuple[float, float]
Floats = npt.NDArray[np.float64]


def wilson(hits: int, n: int) -> Interval | None:
    """Wilson's interval of a share, as fractions; None for a share of nothing."""
    # Imported where it is used: scipy.stats takes a second, and bad input should be refused before that.
    from scipy.stats import binomtest

    if n == 0:
        return None
    interval = binomtest(hits, n).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class PairedCounts:
    """How two predictors did on the same items of one task.

    Attributes:
        both: items that both got right.
        first: items that only the first got right.
        second: items that only the second got right.
        neither: items that both got wrong.
    """

    both: int
    first: int
    second: int
    neither: int

    @property
    def n(self) -> int:
        """Number of items."""
        return self.both + self.first + self.second + self.neither


def pair(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> PairedCounts:
    """Count the outcomes of two predictors, one entry an item in the same order.

    Raises:
        KnotsError: they did not score the same number of items.
    """
    if first.shape != second.shape:
        raise KnotsError(
            f"cannot pair results over {len(first)} and {len(second)} items: they are not of the same split"
        )
    both, total = int((first & second).sum()), len(first)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return PairedCounts(both, only_first, only_second, total - both - only_first - only_second)


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Draws of each task's accuracies, items drawn with replacement within the task.

    Attributes:
        first: [S, T], accuracies of the first predictor, as fractions.
        second: [S, T], of the second one on the same draws.
    """

    first: Floats
    second: Floats

    @property
    def accuracy(self) -> Interval | None:
        """Interval of the first predictor's mean accuracy over the tasks."""
        return _interval(self.first.mean(axis=1))

    @property
    def normalized(self) -> list[Interval | None]:
        """Intervals of first / second, one a task, over the draws in which second is not zero."""
        return [_interval(ratios) for ratios in self._ratios().T]

    @property
    def normalized_average(self) -> Interval | None:
        """Interval of the mean over the tasks of first / second, over the draws in which it exists."""
        return _interval(self._ratios().mean(axis=1))

    def _ratios(self) -> Floats:
        ratios = np.full(self.first.shape, np.nan)
        np.divide(self.first, self.second, out=ratios, where=self.second > 0)
        return ratios


def bootstrap(pairs: Sequence[PairedCounts], *, seed: int, draws: int = DRAWS) -> Bootstrap:
    """Paired bootstrap over items, stratified by task.

    An item counts only by which of four outcomes it has, so drawing N_t items with replacement is
    drawing the numbers of the four outcomes from a multinomial distribution: the same distribution
    as with the items themselves, not an approximation, and a thousand times faster.

    Args:
        pairs: the outcomes of each task; every task needs at least one item.
        seed: of a generator of its own.
        draws: S.

    Raises:
        KnotsError: a task has no items.
    """
    generator = np.random.default_rng(seed)
    first, second = np.empty((draws, len(pairs))), np.empty((draws, len(pairs)))
    for task, counts in enumerate(pairs):
        if counts.n == 0:
            raise KnotsError(f"cannot draw from task {task}, which has no items")
        shares = np.array([counts.both, counts.first, counts.second, counts.neither]) / counts.n
        drawn = generator.multinomial(counts.n, shares, size=draws)
        first[:, task] = (drawn[:, 0] + drawn[:, 1]) / counts.n
        second[:, task] = (drawn[:, 0] + drawn[:, 2]) / counts.n
    return Bootstrap(first, second)


def mean_interval(values: Sequence[float], *, seed: int, draws: int = DRAWS) -> Interval | None:
    """Percentile bootstrap of a mean over units that are drawn whole, as subsets of tasks.

    It describes how much the mean depends on which units it is over. Units that have something in common are
    no independent sample, and then it is no confidence interval.

    Args:
        values: one a unit, in any unit of measure; the interval is in the same.
        seed: of a generator of its own.
        draws: S.

    Returns:
        None for fewer than two values.
    """
    if len(values) < 2:
        return None
    known = np.asarray(values, dtype=np.float64)
    chosen = np.random.default_rng(seed).integers(len(known), size=(draws, len(known)))
    return _interval(known[chosen].mean(axis=1))


def _interval(values: Floats) -> Interval | None:
    """The middle 95 % of the draws that have a value; None where none has."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return None
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
