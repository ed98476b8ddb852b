"""A hierarchical bootstrap: universes of adapters, crossed with items.

Shapes: U universes, M predictors, T tasks, N_t items of task t, S draws, P distinct outcomes of an item, C
columns of outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from knots.analysis.statistics.panel import Bools, Panel
from knots.errors import KnotsError, unknown
from knots.evaluation.intervals import DRAWS, LEVEL

Floats = npt.NDArray[np.float64]

BLOCK = 2_000_000
"""Items that are drawn at once: what is in memory does not grow with the number of draws."""

FEW = 16
"""Items for each distinct outcome, from which on outcomes are drawn in place of items: it is faster then."""


@dataclass(frozen=True)
class Estimate:
    """A number with what is known of its error; all fractions.

    Attributes:
        value: as measured; NaN where it does not exist, as a ratio to an accuracy of 0.
        interval: lower and upper end of the 95 % interval.
        error: standard error.
        above: share of draws above 0: for a difference, the probability that the first is better.
    """

    value: float
    interval: tuple[float, float] | None
    error: float | None
    above: float | None


@dataclass(frozen=True, eq=False)
class Draws:
    """What a hierarchical bootstrap drew; every draw is of the same universes and items in all columns.

    Attributes:
        predictors: names of the M columns.
        values: [U, M], measured averages in each universe.
        draws: [S, M], means over universes.
        items: [S, M], the part of each draw's deviation that is due to items.
    """

    predictors: tuple[str, ...]
    values: Floats
    draws: Floats
    items: Floats

    def mean(self, name: str) -> Estimate:
        """A predictor's mean over universes."""
        return self.contrast({name: 1.0})

    def difference(self, first: str, second: str) -> Estimate:
        """First minus second; `above` is the probability that the first is better."""
        return self.contrast({first: 1.0, second: -1.0} if first != second else {first: 0.0})

    def contrast(self, weights: Mapping[str, float]) -> Estimate:
        """A weighted sum of predictors' means over universes.

        Args:
            weights: predictor -> its weight; those that are not named have none.

        Raises:
            KnotsError: a predictor is unknown, or none is named.
        """
        if not weights:
            raise KnotsError("a contrast needs at least one predictor")
        for name in weights:
            if name not in self.predictors:
                raise unknown("predictor", name, self.predictors)
        columns = [self.predictors.index(name) for name in weights]
        factors = np.array(list(weights.values()), dtype=np.float64)
        values, draws, items = (part[:, columns] @ factors for part in (self.values, self.draws, self.items))
        spread = 0.0 if len(values) == 1 else float(values.var(ddof=1)) / len(values)
        kept = items[np.isfinite(items)]
        error = float(np.sqrt(spread + kept.var(ddof=1))) if len(kept) > 1 else None
        return drawn_estimate(float(values.mean()), draws, error=error)

    def drawn(self, weights: Mapping[str, float]) -> Floats:
        """[S], the draws of the same weighted sum; of predictors that are there."""
        columns = [self.predictors.index(name) for name in weights]
        sums: Floats = self.draws[:, columns] @ np.array(list(weights.values()), dtype=np.float64)
        return sums


def drawn_estimate(value: float, drawn: Floats, *, error: float | None = None) -> Estimate:
    """What draws say of a number, those aside in which it does not exist.

    Args:
        value: as measured.
        drawn: [S].
        error: standard error; None is the deviation of the draws.
    """
    known = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or len(known) < 2:
        return Estimate(value, None, None, None)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    error = float(known.std(ddof=1)) if error is None else error
    return Estimate(value, (float(low), float(high)), error, float((known > 0).mean()))


def hierarchical(
    panel: Panel,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    pooled: bool = False,
    divisors: Mapping[str, float] | None = None,
) -> Draws:
    """Bootstrap over universes and, independently, over items within each task.

    Every universe is scored on the same items, so the mean over universes errs in two ways. Universes: their
    deviation, which is that of the universes' effects and of what items do in one universe only, both seen
    in the spread of the U measured values. And items: what they do in all universes alike. A draw adds one
    deviation of each kind:

    - universes drawn with replacement. Their resampled mean varies too little, so its deviation is multiplied
      by sqrt(U / (U - 1)); and as U values tell little of their spread, by sqrt((U - 1) / chi2) with a
      chi-squared number of U - 1 degrees drawn anew each time, which makes it Student's t of U - 1 degrees;
    - items drawn with replacement, the same in all universes and for all predictors. The deviation of the
      mean over universes holds also what items do in one universe only, which the spread of universes
      has already; it is shrunk so that its covariance is that between different universes.

    With U = 1 it is the paired bootstrap over items alone, and says nothing of other universes.

    Args:
        panel: the outcomes of all items.
        seed: of a generator of its own.
        draws: S.
        pooled: shares of the items of all tasks together, divided by nothing, as joint hits are; else means
            over a predictor's tasks of accuracy, divided by the reference's where there is one.
        divisors: task -> what its values are divided by besides, without an error of its own, as a published
            accuracy.

    Raises:
        KnotsError: a task has no items.
    """
    for task, items in panel.items.items():
        if items == 0:
            raise KnotsError(f"cannot draw from task {task!r}, which has no items")
    generator = np.random.default_rng(seed)
    values, drawn = _averages(panel, generator, draws, pooled, divisors or {})
    center = values.mean(axis=0)
    items = drawn.mean(axis=1) - center
    if panel.universes == 1:
        return Draws(panel.predictors, values, center + items, items)
    known = np.isfinite(values).all(axis=0)
    items[:, known] = items[:, known] @ _sharing(drawn[:, :, known])
    return Draws(panel.predictors, values, center + _universes(values, generator, draws) + items, items)


def _universes(values: Floats, generator: np.random.Generator, draws: int) -> Floats:
    """[S, M], deviations of means over universes [U, M] that are drawn with replacement."""
    count = len(values)
    chosen = generator.multinomial(count, np.full(count, 1 / count), size=draws) / count
    freedom = count - 1
    longer = np.sqrt(count / freedom) * np.sqrt(freedom / generator.chisquare(freedom, size=draws))
    deviations: Floats = (longer[:, None] * chosen) @ (values - values.mean(axis=0))
    return deviations


def _sharing(drawn: Floats) -> Floats:
    """[M, M], shrinks deviations [S, M] of the mean over universes to what all universes share.

    The covariance V of the mean holds what items do in all universes, and 1 / U of what they do in one only;
    the mean W of the universes' own covariances holds all of both. So the first is V - (W - V) / (U - 1). The
    matrix takes deviations of covariance V to this one; estimated, it may be outside 0 to V by a little,
    and is cut off there.

    Args:
        drawn: [S, U, M], values in each universe on drawn items.
    """
    drawn = drawn[np.isfinite(drawn).all(axis=(1, 2))]
    draws, universes, predictors = drawn.shape
    if draws < 2 or predictors == 0:
        return np.eye(predictors)
    deviations = drawn - drawn.mean(axis=0)
    means = deviations.mean(axis=1)
    total = means.T @ means / draws
    own = np.einsum("sum,sun->mn", deviations, deviations) / (draws * universes)
    shared = total - (own - total) / (universes - 1)
    sizes, axes = np.linalg.eigh(total)
    kept = sizes > 1e-10 * max(sizes.max(), 1e-300)
    roots = np.sqrt(sizes[kept])
    white, colour = axes[:, kept] / roots, axes[:, kept] * roots
    shares, turns = np.linalg.eigh(white.T @ shared @ white)
    shrinking: Floats = white @ (turns * np.sqrt(shares.clip(0, 1))) @ turns.T @ colour.T
    return shrinking


def _averages(
    panel: Panel, generator: np.random.Generator, draws: int, pooled: bool, divisors: Mapping[str, float]
) -> tuple[Floats, Floats]:
    """Measured averages [U, M], and those of drawn items [S, U, M]."""
    shape = panel.universes, len(panel.predictors)
    sizes = np.array([float(n) if pooled else 1.0 for n in panel.items.values()])
    weights = panel.scored * sizes
    weights /= weights.sum(axis=1, keepdims=True).clip(1)
    weights /= np.array([divisors.get(task, 1.0) for task in panel.tasks])
    reference = None if pooled else panel.reference
    averages = np.zeros((1 + draws, *shape))  # the first are those measured
    for place, task in enumerate(panel.tasks):
        columns = panel.right[task].reshape(shape[0] * shape[1], -1)
        if reference is not None:
            columns = np.concatenate([columns, reference[task]])
        shares = np.concatenate([columns.mean(axis=1)[None], _drawn_shares(columns, generator, draws)])
        own = shares[:, : shape[0] * shape[1]].reshape(-1, *shape)
        if reference is not None:
            own = _ratio(own, shares[:, shape[0] * shape[1] :, None])
        averages += np.where(panel.scored[:, place], own * weights[:, place], 0.0)
    averages[..., ~panel.scored.any(axis=1)] = np.nan
    return averages[0], averages[1:]


def _ratio(shares: Floats, reference: Floats) -> Floats:
    """Shares over those of the reference; NaN where that got nothing right."""
    ratios = np.full(shares.shape, np.nan)
    np.divide(shares, reference, out=ratios, where=reference > 0)
    return ratios


def _drawn_shares(columns: Bools, generator: np.random.Generator, draws: int) -> Floats:
    """[S, C], the share of True in each of C columns [C, N] over N items drawn with replacement.

    Items with the same outcome in every column need not be told apart: how often each of the P outcomes is
    drawn is enough, and the shares of all columns are one product of matrices.
    """
    items = columns.shape[1]
    packed = np.packbits(columns, axis=0).T
    _, first, outcome, counts = np.unique(
        packed, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    patterns = columns[:, first].T.astype(np.float32)
    hits: Floats = np.empty((draws, len(columns)))
    size = max(1, BLOCK // items)
    for start in range(0, draws, size):
        rows = min(size, draws - start)
        if len(counts) * FEW < items:
            drawn = generator.multinomial(items, counts / items, size=rows)
        else:
            chosen = outcome.reshape(-1)[generator.integers(items, size=(rows, items))]
            chosen += len(counts) * np.arange(rows)[:, None]
            drawn = np.bincount(chosen.ravel(), minlength=rows * len(counts)).reshape(rows, -1)
        # Whole numbers below 2^24: exact in float32.
        hits[start : start + rows] = drawn.astype(np.float32) @ patterns
    hits /= items
    return hits
