"""The mean over a few independent units, as sets of adapters that were trained independently."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from knots.analysis.statistics.universes import Estimate
from knots.evaluation.intervals import LEVEL


def mean_of_units(values: Sequence[float]) -> Estimate:
    """Mean and Student's interval of numbers that have no error of their own beside that of the unit.

    Args:
        values: one a unit, in any unit of measure, which the estimate is in too.

    Returns:
        Without interval, error and probability for fewer than two values; `above` is what Student's law of
        the mean leaves above 0.
    """
    from scipy.stats import t as student

    known = np.asarray(values, dtype=np.float64)
    if len(known) < 2:
        return Estimate(float(known.mean()) if len(known) else float("nan"), None, None, None)
    mean, error = float(known.mean()), float(known.std(ddof=1) / np.sqrt(len(known)))
    if error == 0:
        return Estimate(mean, (mean, mean), 0.0, float(mean > 0))
    law = student(df=len(known) - 1, loc=mean, scale=error)
    low, high = law.interval(LEVEL)
    return Estimate(mean, (float(low), float(high)), error, float(law.sf(0.0)))
