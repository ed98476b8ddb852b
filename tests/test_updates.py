import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from knots import Dense, KnotsError, LowRank
from knots.updates import Deferred, factor, update_svd
from tests.random_adapters import random_update

SIDES = st.integers(1, 9)


def test_low_rank_is_the_product_of_its_factors(generator):
    update = random_update((5, 7), 2, generator)
    assert update.shape == (5, 7)
    assert update.rank == 2
    assert update.dense().dtype == torch.float32
    torch.testing.assert_close(update.dense(), update.b @ update.a)
    torch.testing.assert_close(update.scaled(-2).dense(), -2 * update.dense())


@pytest.mark.parametrize(("b", "a"), [((3, 2), (3, 4)), ((3,), (3, 4)), ((3, 2, 1), (2, 4))])
def test_factors_that_do_not_fit_are_refused(b, a):
    with pytest.raises(KnotsError, match=r"b must be \[O, R\]"):
        LowRank(torch.zeros(b), torch.zeros(a))


def test_a_dense_update_must_be_a_matrix():
    with pytest.raises(KnotsError, match=r"\(3,\)"):
        Dense(torch.zeros(3))


@given(SIDES, SIDES)
def test_factoring_a_dense_update_is_exact_with_the_identity_on_its_smaller_side(out_features, in_features):
    weight = torch.randn(out_features, in_features, generator=torch.Generator().manual_seed(0))
    factors = factor(Dense(weight))
    assert factors.rank == min(out_features, in_features)
    assert torch.equal(factors.dense(), weight)


@given(SIDES, SIDES, st.integers(0, 12), st.integers(0, 3))
def test_svd_of_an_update_rebuilds_it(out_features, in_features, rank, seed):
    update = random_update((out_features, in_features), rank, torch.Generator().manual_seed(seed))
    u, s, vt = update_svd(update)
    assert len(s) == min(out_features, in_features, rank)
    assert bool((s.diff() <= 0).all())
    torch.testing.assert_close((u * s) @ vt, update.dense(torch.float64))
    torch.testing.assert_close(u.T @ u, torch.eye(len(s), dtype=torch.float64))


def test_a_deferred_update_is_a_dense_one_that_is_computed_when_it_is_read(generator):
    weight, reads = torch.randn(4, 6, generator=generator), []

    def make():
        reads.append(None)
        return weight

    update = Deferred((4, 6), make)
    twice = update.scaled(2).to("cpu")
    assert (twice.shape, twice.rank, "4, 6" in repr(twice)) == ((4, 6), 4, True)
    assert not reads
    assert torch.equal(twice.dense(torch.float64), 2 * weight.double())
    held = twice.held()
    assert len(reads) == 2
    assert torch.equal(held.weight, held.dense())
    assert held.held() is held
    assert len(reads) == 2
    for function in (factor, update_svd):
        function(update)
    assert len(reads) == 4
