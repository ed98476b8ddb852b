"""The mean over few units and what is known of it."""

import numpy as np
import pytest
from scipy import stats

from knots.analysis.statistics import mean_of_units


def test_it_is_students_interval():
    values = [0.3, 0.1, 0.25, 0.4]
    found = mean_of_units(values)
    test = stats.ttest_1samp(values, 0, alternative="greater")
    assert found.value == pytest.approx(np.mean(values))
    assert found.interval == pytest.approx(tuple(stats.ttest_1samp(values, 0).confidence_interval()))
    assert found.above == pytest.approx(1 - test.pvalue)


def test_one_value_says_nothing_of_others_and_equal_ones_leave_no_doubt():
    alone = mean_of_units([0.5])
    assert (alone.value, alone.interval, alone.error) == (0.5, None, None)
    equal = mean_of_units([0.5, 0.5])
    assert (equal.interval, equal.error, equal.above) == ((0.5, 0.5), 0.0, 1.0)
    assert np.isnan(mean_of_units([]).value)


def test_the_interval_holds_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(1.0, 2.0, size=(4000, 5))
    ends = np.array([mean_of_units(row).interval for row in draws])
    covered = ((ends[:, 0] <= 1.0) & (ends[:, 1] >= 1.0)).mean()
    assert 0.93 <= covered <= 0.97
