"""Whether rankings agree: Kendall's W of several, rank correlation of two.

Shapes: U rankings (universes), M things that are ranked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from knots.errors import KnotsError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Concordance:
    """How well U rankings of M things agree.

    Attributes:
        w: Kendall's W, 0 (no agreement) to 1 (the same ranking); NaN where all values of every ranking tie.
        p: of Friedman's test that no thing ranks above another (chi-squared, rough for few rankings).
        ranks: [U, M], 1 for the largest value; ties share the mean of their ranks.
    """

    w: float
    p: float
    ranks: Floats


def concordance(values: Floats) -> Concordance:
    """Kendall's coefficient of concordance with ties (Kendall and Babington Smith, 1939).

    Args:
        values: [U, M], the larger the better.

    Raises:
        KnotsError: fewer than two rankings or three things, or a value that is not finite.
    """
    from scipy.stats import friedmanchisquare, rankdata

    rankings, things = values.shape
    if rankings < 2 or things < 3:
        raise KnotsError(f"{rankings} rankings of {things}; at least two rankings of three are needed")
    if not np.isfinite(values).all():
        raise KnotsError("a value to rank is not finite")
    ranks = np.asarray(rankdata(-values, axis=1), dtype=np.float64)
    if (values == values[:, :1]).all():
        return Concordance(float("nan"), float("nan"), ranks)
    test = friedmanchisquare(*values.T)
    return Concordance(float(test.statistic) / (rankings * (things - 1)), float(test.pvalue), ranks)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Kendall's tau-b and Spearman's rho of two rankings of the same things; NaN where one is all ties.

    Raises:
        KnotsError: they are not of the same number of things, or of fewer than two.
    """
    from scipy.stats import kendalltau, spearmanr

    if len(first) != len(second) or len(first) < 2:
        raise KnotsError(f"{len(first)} and {len(second)} values; two or more of both are needed, as many")
    if len(set(first)) == 1 or len(set(second)) == 1:
        return float("nan"), float("nan")
    return float(kendalltau(first, second).statistic), float(spearmanr(first, second).statistic)
