"""Ranks, norms and angles against dense matrices."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from knots.analysis.geometry import model_geometry, module_geometry
from knots.updates import Dense, LowRank
from tests.random_adapters import random_update

SIDES = st.tuples(st.integers(2, 12), st.integers(2, 12))
RANKS = st.lists(st.integers(0, 4), min_size=1, max_size=4)


def slow(updates: list) -> dict[str, Tensor]:
    """Everything from dense matrices by plain NumPy-like steps."""
    mats = [u.dense(torch.float64) for u in updates]
    svds = [torch.linalg.svd(m, full_matrices=False) for m in mats]
    ranks = [
        int(torch.linalg.matrix_rank(m, rtol=max(m.shape) * 1.2e-7)) if bool(m.any()) else 0 for m in mats
    ]

    def overlap(bases: list[Tensor]) -> Tensor:
        """Mean squared cosine of principal angles, from projectors."""
        found = torch.full((len(bases), len(bases)), math.nan).double()
        for i, a in enumerate(bases):
            for j, b in enumerate(bases):
                if ranks[i] and ranks[j]:
                    found[i, j] = torch.trace(a @ a.T @ b @ b.T) / min(ranks[i], ranks[j])
        return found

    def entropy_rank(s: Tensor) -> float:
        p = [float(v / s.sum()) for v in s if v > 1e-6 * s.max()]
        return math.exp(-sum(v * math.log(v) for v in p)) if p else math.nan

    return {
        "norms": torch.stack([m.norm() for m in mats]),
        "ranks": torch.tensor(ranks).double(),
        "effective": torch.tensor([entropy_rank(s) for _, s, _ in svds]).double(),
        "stable": torch.stack([m.norm() ** 2 / torch.linalg.matrix_norm(m, 2) ** 2 for m in mats]),
        "inner": torch.tensor([[float((a * b).sum()) for b in mats] for a in mats]).double(),
        "columns": overlap([u[:, :r] for (u, _, _), r in zip(svds, ranks, strict=True)]),
        "rows": overlap([vt[:r].T for (_, _, vt), r in zip(svds, ranks, strict=True)]),
    }


@settings(deadline=None, max_examples=40)
@given(SIDES, RANKS, st.booleans(), st.integers(0, 100))
def test_a_module_s_geometry_is_that_of_its_dense_matrices(shape, ranks, dense, seed):
    generator = torch.Generator().manual_seed(seed)
    updates = [random_update(shape, rank, generator) for rank in ranks]
    found = module_geometry([Dense(u.dense()) for u in updates] if dense else updates)
    for name, expected in slow(updates).items():
        options = {"rtol": 1e-4, "atol": 1e-4, "equal_nan": True}
        torch.testing.assert_close(
            getattr(found, name), expected, **options, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_model_s_geometry_is_that_of_all_its_modules(generator: torch.Generator):
    shapes = {"a": (6, 5), "b": (4, 9)}
    updates = {m: [random_update(shape, r, generator) for r in (2, 3)] for m, shape in shapes.items()}
    parts = {module: module_geometry(found) for module, found in updates.items()}
    whole = model_geometry(parts)
    flat = [torch.cat([updates[m][t].dense().double().flatten() for m in shapes]) for t in range(2)]
    assert whole.norms.tolist() == pytest.approx([float(v.norm()) for v in flat], rel=1e-6)
    cosine = float(torch.nn.functional.cosine_similarity(flat[0], flat[1], dim=0))
    assert float(whole.cosines[0, 1]) == pytest.approx(cosine, rel=1e-5)
    torch.testing.assert_close(whole.cosines.diagonal(), torch.ones(2).double())
    torch.testing.assert_close(whole.rows, (parts["a"].rows + parts["b"].rows) / 2)


def test_known_shapes():
    eye = torch.eye(6)
    found = module_geometry([LowRank(eye[:, :3], eye[:3]), LowRank(eye[:, 3:], eye[:3]), Dense(2 * eye)])
    assert found.effective.tolist() == pytest.approx([3, 3, 6])
    assert found.stable.tolist() == pytest.approx([3, 3, 6])
    assert float(found.columns[0, 1]) == pytest.approx(0)
    assert float(found.rows[0, 1]) == pytest.approx(1)
    assert float(found.inner[0, 1]) == pytest.approx(0)


def test_a_zero_update_has_no_direction():
    zero = LowRank(torch.zeros(4, 2), torch.ones(2, 4))
    found = module_geometry([zero, LowRank(torch.ones(4, 1), torch.ones(1, 4))])
    assert (float(found.norms[0]), float(found.ranks[0])) == (0, 0)
    assert found.effective.isnan().tolist() == found.stable.isnan().tolist() == [True, False]
    assert found.cosines.isnan().tolist() == [[True, True], [True, False]]
    assert model_geometry({"a": found, "b": found}).effective.isnan().tolist() == [True, False]
