"""Intervals hold the truth about as often as they say: data with known differences, drawn many times."""

import numpy as np
import pytest

from knots.analysis.statistics import hierarchical
from knots.evaluation.intervals import wilson
from tests.analysis.statistics.panels import drawn_panel

# The share of 1,000 intervals that hold the truth has a deviation of 0.7 points itself.
TIMES, DRAWS = 1000, 400

# Universes, and the deviation of their effect: that of a latent variable in which items deviate by 1. It
# makes nine tenths of the variance, about as much as the items, or none. (At 1.0, accuracies are spread over
# all of 0 to 1 and far from normal: 92 to 94 %, as Student's interval of the five true accuracies.)
SETTINGS = [(1, 0.0), (5, 0.4), (5, 0.1), (5, 0.0), (2, 0.3)]


def coverage(universes: int, spread: float, times: int, draws: int) -> dict[str, float]:
    """Shares of intervals that hold the truth, in percent."""
    generator, held = np.random.default_rng(7), {"difference": 0, "normalized": 0}
    for seed in range(times):
        panel, (first, second) = drawn_panel(generator, universes, spread=spread)
        found = hierarchical(panel, seed=seed, draws=draws)
        low, high = found.difference("a", "b").interval
        held["difference"] += low <= first - second <= high
        low, high = found.mean("a").interval
        held["normalized"] += low <= first <= high
    return {what: 100 * count / times for what, count in held.items()}


@pytest.mark.parametrize(("universes", "spread"), SETTINGS)
def test_of_averages_and_of_paired_differences_denominators_and_universes_included(universes, spread):
    for what, share in coverage(universes, spread, TIMES, DRAWS).items():
        assert 93 <= share <= 97, what


@pytest.mark.slow
@pytest.mark.parametrize(("universes", "spread"), SETTINGS)
def test_the_same_with_more_repetitions(universes, spread):
    for what, share in coverage(universes, spread, 3000, 600).items():
        assert 93 <= share <= 97, what


def test_of_single_accuracies():
    generator = np.random.default_rng(7)
    truths = generator.uniform(0.05, 0.98, size=2000)
    intervals = [wilson(int(hits), 300) for hits in generator.binomial(300, truths)]
    held = np.mean([low <= p <= high for (low, high), p in zip(intervals, truths, strict=True)])
    assert 0.93 <= held <= 0.97


def test_the_error_of_a_ratio_is_that_of_both_its_parts():
    panel, _ = drawn_panel(np.random.default_rng(0), 1, spread=0.0, items=2000, tasks=1)
    right, reference = panel.right["task 0"][0, 0], panel.reference["task 0"][0]
    above, below = right.mean(), reference.mean()
    # By the delta method: each item's part in the ratio's deviation.
    parts = (right - above) / below - above * (reference - below) / below**2
    error = hierarchical(panel, draws=20_000).mean("a").error
    assert error == pytest.approx(parts.std() / np.sqrt(2000), rel=0.02)
