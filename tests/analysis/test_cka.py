"""CKA over batches against the formulas on whole Gram matrices, and the properties it is known for."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from knots.analysis.cka import Moments, linear_cka, spanning_rows
from knots.errors import KnotsError

BOTH = pytest.mark.parametrize("debiased", [False, True])


def gram_cka(x: Tensor, y: Tensor, *, debiased: bool) -> float:
    """The definition: n x n Gram matrices, all rows at once."""

    def hsic(k: Tensor, other: Tensor) -> float:
        n = len(k)
        if not debiased:
            h = torch.eye(n, dtype=k.dtype) - 1 / n
            return float(torch.trace(k @ h @ other @ h))
        one, k, other = torch.ones(n).double(), *(gram - torch.diag(gram.diagonal()) for gram in (k, other))
        whole = (one @ k @ one) * (one @ other @ one) / ((n - 1) * (n - 2))
        return float(torch.trace(k @ other) + whole - 2 / (n - 2) * (one @ k @ other @ one)) / (n * (n - 3))

    k, other = x @ x.T, y @ y.T
    return hsic(k, other) / math.sqrt(hsic(k, k) * hsic(other, other))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(n: int, widths: tuple[int, ...], seed: int = 0, offset: float = 3.0) -> list[Tensor]:
    """Representations that share some of what they see, far from the origin."""
    common = normal(n, 3, seed=seed)
    return [
        common @ normal(3, width, seed=seed + 1 + place) + normal(n, width, seed=seed + 50 + place) + offset
        for place, width in enumerate(widths)
    ]


@BOTH
@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(5, 40),
    widths=st.lists(st.integers(1, 12), min_size=2, max_size=3),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    seed=st.integers(0, 1000),
    offset=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_any_batches_give_the_formula_on_the_whole_gram_matrices(debiased, n, widths, cuts, seed, offset):
    whole = related(n, tuple(widths), seed, offset)
    edges = sorted({0, n, *(min(cut, n) for cut in cuts)})
    batches = [[part[a:b] for part in whole] for a, b in pairwise(edges)]
    got = linear_cka(batches, debiased=debiased)
    for i, x in enumerate(whole):
        for j, y in enumerate(whole):
            assert float(got[i, j]) == pytest.approx(gram_cka(x, y, debiased=debiased), rel=1e-6, abs=1e-9)


@BOTH
def test_orthonormal_maps_scale_and_shift_change_nothing(debiased: bool):
    x, y = related(50, (6, 4))
    turned = torch.linalg.qr(normal(9, 6, seed=7)).Q  # to a wider space
    plain = linear_cka([[x, y]], debiased=debiased)
    moved = linear_cka([[5.0 * x @ turned.T - 2.0, y]], debiased=debiased)
    torch.testing.assert_close(moved, plain, rtol=1e-10, atol=1e-12)


@BOTH
def test_symmetric_with_ones_on_the_diagonal(debiased: bool):
    found = linear_cka([related(30, (5, 2, 8))], debiased=debiased)
    assert torch.equal(found, found.T)
    assert torch.equal(found.diagonal(), torch.ones(3).double())
    x = related(30, (5,))[0]
    assert float(linear_cka([[x, x.clone()]], debiased=debiased)[0, 1]) == pytest.approx(1.0, abs=1e-12)


def test_few_rows_make_independent_data_look_alike_unless_debiased():
    x, y = normal(60, 80, seed=1), normal(60, 80, seed=2)
    assert float(linear_cka([[x, y]], debiased=False)[0, 1]) > 0.5
    assert abs(float(linear_cka([[x, y]], debiased=True)[0, 1])) < 0.05


@BOTH
def test_what_does_not_vary_has_no_cka(debiased: bool):
    x = related(20, (4,))[0]
    still = torch.full((20, 3), 1e3).double() + 1e-5 * normal(20, 3)  # as float32 would round it
    found = linear_cka([[x, still, torch.zeros(20, 2).double()]], debiased=debiased)
    assert float(found[0, 0]) == 1
    assert int(found.isnan().sum()) == 8


@BOTH
def test_maps_of_rows_are_their_images(debiased: bool):
    rows = normal(40, 20) + 1.0
    maps = {"thin": [normal(3, 20, seed=1), normal(2, 20, seed=2)], "other": [normal(4, 20, seed=3)] * 2}
    moments = Moments(maps)
    for part in rows.split(7):
        moments.add(part)
    assert moments.rows == 40
    for name, found in maps.items():
        expected = linear_cka([[rows @ c.T for c in found]], debiased=debiased)
        torch.testing.assert_close(moments.cka(name, debiased=debiased), expected, rtol=1e-9, atol=1e-12)


def test_coordinates_are_few_where_maps_are_thin():
    thin = [normal(3, 20, seed=1), normal(2, 20, seed=2)]
    basis = spanning_rows([*thin, 1e-3 * thin[0], torch.zeros(2, 20), torch.zeros(0, 20)])
    assert basis is not None
    assert basis.shape == (5, 20)
    torch.testing.assert_close(basis @ basis.T, torch.eye(5).double(), rtol=0, atol=1e-12)
    for c in thin:
        torch.testing.assert_close(c @ basis.T @ basis, c, rtol=1e-12, atol=1e-12)
    near = spanning_rows([thin[0], thin[0] + 1e-8 * normal(3, 20, seed=5)])
    assert near is not None
    assert near.shape == (6, 20)
    torch.testing.assert_close(near @ near.T, torch.eye(6).double(), rtol=0, atol=1e-12)
    assert spanning_rows([*thin, normal(20, 20)]) is None
    assert spanning_rows([normal(12, 20, seed=3), normal(12, 20, seed=4)]) is None


@BOTH
def test_mistakes_are_named(debiased: bool):
    with pytest.raises(KnotsError, match="no batches"):
        linear_cka([], debiased=debiased)
    few = 3 if debiased else 1
    with pytest.raises(KnotsError, match=rf"at least {few + 1} rows, got {few}"):
        linear_cka([related(few, (2, 2))], debiased=debiased)
    with pytest.raises(KnotsError, match="NaN or infinite"):
        linear_cka([[torch.full((5, 2), math.nan).double()] * 2], debiased=debiased)
