import torch

from knots.linalg import numerical_rank, thin_qr, thin_svd


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
