import pytest
import torch

from knots.linalg import leading_basis, numerical_rank, thin_qr, thin_svd


def test_decompositions_run_in_float64_and_are_thin(generator):
    matrix = torch.randn(7, 3, generator=generator)
    q, r = thin_qr(matrix)
    u, s, vt = thin_svd(matrix)
    assert {t.dtype for t in (q, r, u, s, vt)} == {torch.float64}
    assert (q.shape, r.shape) == ((7, 3), (3, 3))
    torch.testing.assert_close(q @ r, matrix.double())
    torch.testing.assert_close((u * s) @ vt, matrix.double())


def test_numerical_rank_counts_what_rises_above_rounding():
    assert numerical_rank(torch.tensor([1.0, 0.5, 1e-9]), 100) == 2
    assert numerical_rank(torch.zeros(3), 100) == 0
    assert numerical_rank(torch.empty(0), 100) == 0


SIDE, COUNT = 400, 20
PLACES = torch.arange(1.0, SIDE + 1, dtype=torch.float64)
SPECTRA = {
    "slow": PLACES**-0.5,
    "fast": torch.exp(-PLACES / 10),
    "all equal": torch.ones(SIDE),
    "many equal": torch.where(PLACES <= 70, 1.0, 0.5),
    "low rank and a tail": torch.where(PLACES <= 16, 1.0, 0.1 / PLACES),
    "rank below count": torch.where(PLACES <= 5, 1.0, 0.0),
    "rank one": torch.where(PLACES <= 1, 1.0, 0.0),
    "tiny numbers": 1e-30 * PLACES**-0.5,
    "huge numbers": 1e30 * PLACES**-0.5,
}


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", SPECTRA)
def test_a_leading_basis_holds_the_best_approximation(name, wide, generator):
    columns = 2 * SIDE if wide else SIDE
    left = thin_qr(torch.randn(SIDE, SIDE, generator=generator))[0]
    right = thin_qr(torch.randn(columns, SIDE, generator=generator))[0]
    matrix = (left * SPECTRA[name]) @ right.T
    basis = leading_basis(matrix, COUNT, limit=SIDE, generator=generator)
    assert basis is not None
    assert basis.shape[1] < SIDE
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64))
    square = float(matrix.square().sum())
    best = float(SPECTRA[name][COUNT:].double().square().sum())
    held = float(torch.linalg.svdvals(basis.T @ matrix)[:COUNT].square().sum())
    # Of the error itself; or, where hardly any is left, of the matrix.
    assert square - held == pytest.approx(best, rel=2e-6, abs=1e-12 * square)


def test_no_leading_basis_within_the_limit_or_of_nothing(generator):
    noise = torch.randn(SIDE, SIDE, generator=generator)
    assert leading_basis(noise, COUNT, limit=SIDE // 4, generator=generator) is None
    assert leading_basis(torch.zeros(SIDE, SIDE), COUNT, limit=SIDE, generator=generator) is None
