"""Whether two predictors differ on the same items: McNemar's exact test, and Holm's correction for many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from knots.errors import KnotsError
from knots.evaluation.intervals import pair


def mcnemar(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """Exact two-sided p of McNemar's test (Psychometrika 12, 1947).

    Of the items that only one of the two got right, each is the first's with probability 1/2 if they are
    equally good. Without such items p is 1.

    Args:
        first: [N], whether each item is right.
        second: [N], of the other predictor, in the same order.

    Raises:
        KnotsError: they did not score the same number of items.
    """
    from scipy.stats import binomtest

    counts = pair(first, second)
    discordant = counts.first + counts.second
    return 1.0 if discordant == 0 else float(binomtest(counts.first, discordant).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for being several (Holm, Scandinavian Journal of Statistics 6, 1979), in their order.

    Raises:
        KnotsError: one is not between 0 and 1.
    """
    # Imported where it is used: it takes two seconds.
    from statsmodels.stats.multitest import multipletests

    wrong = [value for value in p if not 0 <= value <= 1]
    if wrong:
        raise KnotsError(f"p={wrong[0]!r}; a number from 0 to 1 is needed")
    if not p:
        return []
    return [float(value) for value in multipletests(list(p), method="holm")[1]]


def normal_p(value: float, error: float) -> float:
    """Two-sided p of an estimate whose error is normal; of an estimate without error, 1 for 0 and 0 else."""
    from scipy.stats import norm

    if error <= 0:
        return 1.0 if value == 0 else 0.0
    return float(2 * norm.sf(abs(value) / error))
