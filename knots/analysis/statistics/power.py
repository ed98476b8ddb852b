"""How large a difference must be to be seen."""

from __future__ import annotations

import math
from collections.abc import Mapping

from knots.errors import KnotsError

DISCORDANT = 0.05
"""Share of items that only one of two methods gets right, where it is not known."""


def detectable(error: float, *, power: float = 0.8, level: float = 0.05) -> float:
    """The smallest true difference that a two-sided test finds with the given probability.

    Args:
        error: standard error of the paired difference; the result is in the same unit.
        power: probability of finding it.
        level: of the test.
    """
    from scipy.stats import norm

    return float(norm.isf(level / 2) + norm.ppf(power)) * error


def detectable_by(interval: tuple[float, float], *, power: float = 0.8, level: float = 0.05) -> float:
    """The same from an interval at `1 - level`, which with few universes is longer than its error says.

    Args:
        interval: of the paired difference; its half takes the place of z standard errors.
        power: probability of finding it.
        level: of the test and of the interval.
    """
    from scipy.stats import norm

    quantile = float(norm.isf(level / 2))
    return (quantile + float(norm.ppf(power))) / quantile * (interval[1] - interval[0]) / 2


def planned_error(
    n: Mapping[str, int], reference: Mapping[str, float], *, discordant: float = DISCORDANT
) -> dict[str, float]:
    """Standard errors of differences between two equally good methods, before any of them was run.

    With a share d of items that only one of the two gets right, the difference of their accuracies has the
    standard error sqrt(d / N_t); normalized values are that much times 1 / reference.

    Args:
        n: task -> number of its items.
        reference: task -> fine-tuned accuracy as a fraction; 1 for what is not normalized.
        discordant: d.

    Returns:
        Task -> standard error as a fraction, and under "average" that of the mean over the tasks.

    Raises:
        KnotsError: a task has no items or no reference.
    """
    for task, items in n.items():
        if items < 1 or not reference.get(task, 0.0) > 0:
            raise KnotsError(f"task {task!r}: {items} items, reference {reference.get(task)}; more than 0")
    errors = {task: math.sqrt(discordant / items) / reference[task] for task, items in n.items()}
    average = math.sqrt(sum(error**2 for error in errors.values())) / len(errors)
    return {**errors, "average": average}
