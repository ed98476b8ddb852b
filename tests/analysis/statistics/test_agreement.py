"""Agreement of rankings against formulas and counting."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from knots.analysis.statistics import concordance, rank_correlation
from knots.errors import KnotsError


@given(st.integers(2, 5), st.integers(3, 6), st.integers(0, 2**31))
def test_w_without_ties_is_kendall_s_formula(rankings: int, things: int, seed: int):
    values = np.random.default_rng(seed).normal(size=(rankings, things))
    found = concordance(values)
    ranks = np.array([[1 + sum(row > value) for value in row] for row in values])
    np.testing.assert_array_equal(found.ranks, ranks)
    spread = ((ranks.sum(axis=0) - rankings * (things + 1) / 2) ** 2).sum()
    assert found.w == pytest.approx(12 * spread / (rankings**2 * (things**3 - things)))


def test_the_same_ranking_agrees_wholly_and_a_turned_one_not_at_all():
    row = np.array([0.3, 0.2, 0.9, 0.5])
    assert concordance(np.stack([row, 2 * row, row + 1])).w == pytest.approx(1)
    assert concordance(np.stack([row, -row])).w == pytest.approx(0, abs=1e-12)
    assert concordance(np.stack([row] * 5)).p < 0.01


def test_ties_share_ranks_and_do_not_lower_agreement():
    values = np.array([[3.0, 1.0, 1.0], [3.0, 1.0, 1.0]])
    found = concordance(values)
    np.testing.assert_array_equal(found.ranks, [[1, 2.5, 2.5]] * 2)
    assert found.w == pytest.approx(1)
    assert np.isnan(concordance(np.ones((3, 4))).w)


@pytest.mark.parametrize(("shape", "words"), [((1, 4), "1 rankings of 4"), ((3, 2), "3 rankings of 2")])
def test_too_little_to_agree_on(shape: tuple[int, int], words: str):
    with pytest.raises(KnotsError, match=words):
        concordance(np.arange(shape[0] * shape[1], dtype=float).reshape(shape))


def test_what_is_not_finite_has_no_rank():
    with pytest.raises(KnotsError, match="not finite"):
        concordance(np.array([[1.0, 2.0, np.nan]] * 2))


@given(arrays(np.int64, 6, elements=st.integers(0, 4)), arrays(np.int64, 6, elements=st.integers(0, 4)))
def test_tau_b_counts_pairs(first: np.ndarray, second: np.ndarray):
    tau, rho = rank_correlation(first.tolist(), second.tolist())
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert np.isnan([tau, rho]).all()
        return
    signs = [
        (np.sign(first[i] - first[j]), np.sign(second[i] - second[j]))
        for i, j in itertools.combinations(range(6), 2)
    ]
    agreed = sum(a * b for a, b in signs)
    expected = agreed / np.sqrt(sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs))
    assert tau == pytest.approx(expected)
    assert -1 - 1e-9 <= rho <= 1 + 1e-9


def test_spearman_is_the_correlation_of_ranks():
    first, second = [0.1, 0.5, 0.3, 0.9], [2.0, 1.0, 3.0, 4.0]
    assert rank_correlation(first, second)[1] == pytest.approx(np.corrcoef([1, 3, 2, 4], [2, 1, 3, 4])[0, 1])


@pytest.mark.parametrize(("first", "second"), [([1.0], [1.0]), ([1.0, 2.0], [1.0])])
def test_two_values_at_least_and_as_many(first: list[float], second: list[float]):
    with pytest.raises(KnotsError, match="values"):
        rank_correlation(first, second)
