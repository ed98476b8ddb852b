"""Exact tests against their definitions, written out."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from knots.analysis.statistics import holm, mcnemar, normal_p
from knots.errors import KnotsError


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_mcnemar_is_twice_the_smaller_tail_of_a_fair_coin(outcomes: list[tuple[bool, bool]]):
    first, second = (np.array([o[side] for o in outcomes], dtype=bool) for side in (0, 1))
    only, other = outcomes.count((True, False)), outcomes.count((False, True))
    tail = sum(comb(only + other, k) for k in range(min(only, other) + 1))
    expected = min(Fraction(1), Fraction(2 * tail, 2 ** (only + other)))
    assert mcnemar(first, second) == pytest.approx(float(expected), abs=1e-12)
    assert mcnemar(second, first) == pytest.approx(mcnemar(first, second))


def test_mcnemar_of_other_items():
    with pytest.raises(KnotsError, match="over 3 and 2 items"):
        mcnemar(np.ones(3, bool), np.ones(2, bool))


def literal_holm(p: list[float]) -> list[float]:
    """Each p by its place among those not smaller, and never below that of a smaller one."""
    adjusted = []
    for value in p:
        before = [other for other in p if other <= value]
        steps = [other * sum(third >= other for third in p) for other in before]
        adjusted.append(min(1.0, max(steps)))
    return adjusted


# Few: the library collects garbage in every call.
@settings(max_examples=8, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12, unique=True))
def test_holm_steps_down(p: list[float]):
    assert holm(p) == pytest.approx(literal_holm(p))


def test_holm_of_equal_values_and_of_none():
    assert holm([0.01, 0.01, 0.5]) == pytest.approx([0.03, 0.03, 0.5])
    assert holm([]) == []


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_holm_of_what_is_no_p(wrong: float):
    with pytest.raises(KnotsError, match="a number from 0 to 1"):
        holm([0.1, wrong])


def test_the_normal_law():
    assert normal_p(1.959963984540054, 1.0) == pytest.approx(0.05)
    assert normal_p(-0.2, 0.1) == pytest.approx(2 * norm.cdf(-2))
    assert (normal_p(0.0, 0.0), normal_p(0.1, 0.0)) == (1.0, 0.0)
