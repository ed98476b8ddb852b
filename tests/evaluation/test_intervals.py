"""Intervals against closed forms and against resampling one item after the other."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knots.errors import KnotsError
from knots.evaluation.intervals import PairedCounts, bootstrap, mean_interval, pair, wilson


@given(st.integers(1, 10_000), st.data())
def test_wilson_is_the_closed_form(n: int, data: st.DataObject):
    hits = data.draw(st.integers(0, n))
    z, p = 1.959963984540054, hits / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert wilson(hits, n) == pytest.approx((middle - half, middle + half), abs=1e-9)


def test_wilson_of_nothing():
    assert wilson(0, 0) is None


@given(st.lists(st.tuples(st.booleans(), st.booleans())))
def test_pairs_are_counted(outcomes: list[tuple[bool, bool]]):
    first, second = (np.array([o[side] for o in outcomes], dtype=bool) for side in (0, 1))
    counts = pair(first, second)
    assert (counts.both, counts.first) == (outcomes.count((True, True)), outcomes.count((True, False)))
    assert (counts.second, counts.neither) == (outcomes.count((False, True)), outcomes.count((False, False)))
    assert counts.n == len(outcomes)


def test_other_items_cannot_be_paired():
    with pytest.raises(KnotsError, match="over 3 and 2 items"):
        pair(np.ones(3, bool), np.ones(2, bool))


def test_equals_resampling_the_items_themselves():
    pairs = [PairedCounts(30, 4, 12, 14), PairedCounts(70, 10, 5, 15)]
    ours = bootstrap(pairs, seed=0, draws=20_000)
    generator = np.random.default_rng(1)
    ratios, means = np.empty((20_000, 2)), np.empty((20_000, 2))
    for task, c in enumerate(pairs):
        first = np.array([1] * c.both + [1] * c.first + [0] * c.second + [0] * c.neither)
        second = np.array([1] * c.both + [0] * c.first + [1] * c.second + [0] * c.neither)
        drawn = generator.integers(0, c.n, size=(20_000, c.n))
        means[:, task] = first[drawn].mean(axis=1)
        ratios[:, task] = means[:, task] / second[drawn].mean(axis=1)
    assert ours.accuracy == pytest.approx(np.quantile(means.mean(axis=1), [0.025, 0.975]), abs=0.004)
    assert ours.normalized_average == pytest.approx(
        np.quantile(ratios.mean(axis=1), [0.025, 0.975]), abs=0.006
    )
    for interval, values in zip(ours.normalized, ratios.T, strict=True):
        assert interval == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.012)


def test_the_same_seed_gives_the_same_draws():
    pairs = [PairedCounts(3, 4, 5, 6)]
    one, same, other = (bootstrap(pairs, seed=seed) for seed in (0, 0, 1))
    assert one.first.shape == (2000, 1)
    np.testing.assert_array_equal(one.first, same.first)
    assert not np.array_equal(one.first, other.first)


def test_pairing_makes_equal_predictors_certain():
    draws = bootstrap([PairedCounts(5, 0, 0, 5)] * 2, seed=0)
    assert draws.normalized_average == pytest.approx((1, 1))
    assert draws.accuracy is not None
    assert draws.accuracy[1] - draws.accuracy[0] > 0.2


def test_no_ratio_to_an_accuracy_of_zero():
    draws = bootstrap([PairedCounts(0, 4, 0, 6)], seed=0)
    assert draws.normalized == [None]
    assert draws.normalized_average is None


def test_nothing_cannot_be_drawn_from():
    with pytest.raises(KnotsError, match="task 0, which has no items"):
        bootstrap([PairedCounts(0, 0, 0, 0)], seed=0)


def test_a_mean_s_interval_against_one_draw_after_the_other():
    values = [61.0, 64.5, 70.25, 58.0, 66.0]
    rows = np.random.default_rng(3).integers(len(values), size=(400, len(values)))
    means = sorted(sum(values[place] for place in row) / len(values) for row in rows)
    at = [fraction * (len(means) - 1) for fraction in (0.025, 0.975)]
    slow = [means[int(x)] + (x - int(x)) * (means[int(x) + 1] - means[int(x)]) for x in at]
    assert mean_interval(values, seed=3, draws=400) == pytest.approx(slow)
    # Draws of its own, of another generator: the same but for chance.
    other = random.Random(0)
    means = sorted(sum(other.choices(values, k=5)) / 5 for _ in range(20_000))
    assert mean_interval(values, seed=0) == pytest.approx((means[500], means[19_500]), abs=0.3)


def test_a_mean_s_interval_of_few_units():
    assert mean_interval([], seed=0) is None
    assert mean_interval([70.0], seed=0) is None
    # The mean of two is either of them in a quarter of the draws each.
    assert mean_interval([60.0, 70.0], seed=0) == (60.0, 70.0)
    assert mean_interval([65.0] * 4, seed=0) == (65.0, 65.0)
