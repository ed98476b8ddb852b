import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from knots import Dense, KnotsError, LowRank
from knots.linalg import decompose_all
from knots.spaces import (
    SPACES,
    STEPS,
    align_core,
    align_full,
    align_knots,
    align_knots_rows,
    align_knots_unscaled,
    align_modules,
    compress,
)
from tests.random_adapters import random_update

RANKS = st.lists(st.integers(0, 5), min_size=1, max_size=4)
SIDES = st.tuples(st.integers(1, 12), st.integers(1, 12))


def updates_of(shape, ranks, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [random_update(shape, rank, generator) for rank in ranks]


@settings(deadline=None)
@given(SIDES, RANKS, st.sampled_from([*SPACES, "compressed"]))
def test_lifting_one_tasks_coordinates_gives_its_update(shape, ranks, space):
    updates = updates_of(shape, ranks)
    aligned = compress(updates) if space == "compressed" else SPACES[space](updates, 1e-5)
    coords = aligned.read()
    assert coords.shape[0] == len(updates)
    assert space == "compressed" or coords.shape[1:] == aligned.shape
    for update, part in zip(updates, coords, strict=True):
        torch.testing.assert_close(aligned.lift(part).dense(), update.dense(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dense", [False, True])
def test_knots_is_the_svd_of_the_concatenated_updates(dense):
    updates = updates_of((10, 7), (2, 3))
    joined = torch.cat([u.dense(torch.float64) for u in updates], dim=1)
    u, s, vt = torch.linalg.svd(joined, full_matrices=False)
    aligned = align_knots([Dense(u.dense()) for u in updates] if dense else updates, 1e-5)
    coords = aligned.read()
    assert coords.shape == (2, 5, 7)
    expected = torch.stack((s[:5, None] * vt[:5]).chunk(2, dim=1)).float()
    # Singular vectors have arbitrary signs: compare magnitudes here, and the products below.
    torch.testing.assert_close(coords.abs(), expected.abs(), rtol=1e-4, atol=1e-4)
    basis = aligned.lift(torch.eye(5)).dense()
    torch.testing.assert_close((basis * u[:, :5].float()).sum(dim=0).abs(), torch.ones(5))


def test_knots_unscaled_is_knots_without_the_singular_values():
    updates = updates_of((10, 7), (2, 3))
    scaled, bare = align_knots(updates, 1e-5), align_knots_unscaled(updates, 1e-5)
    s = torch.linalg.svdvals(torch.cat([u.dense() for u in updates], dim=1))[:5]
    torch.testing.assert_close(bare.read() * s[:, None], scaled.read(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bare.read().square().sum(dim=(0, 2)), torch.ones(5))
    torch.testing.assert_close(bare.lift(torch.eye(5)).dense(), scaled.lift(torch.diag(s)).dense())


def test_knots_rows_shares_the_right_basis():
    updates = updates_of((6, 9), (2, 2))
    aligned = align_knots_rows(updates, 1e-5)
    assert aligned.read().shape == (2, 6, 4)
    basis = aligned.lift(torch.eye(6, 4)).dense()[:4]  # V'
    torch.testing.assert_close(basis @ basis.T, torch.eye(4), rtol=0, atol=1e-5)


def test_core_coordinates_are_the_updates_between_singular_bases():
    updates = updates_of((10, 9), (2, 3))
    u_b = torch.linalg.svd(torch.cat([u.b for u in updates], dim=1), full_matrices=False).U
    v_a = torch.linalg.svd(torch.cat([u.a for u in updates]), full_matrices=False).Vh.T
    expected = torch.stack([u_b.T @ u.dense() @ v_a for u in updates])
    torch.testing.assert_close(align_core(updates, 0.0).read().abs(), expected.abs(), rtol=1e-4, atol=1e-4)


def test_the_cutoff_is_absolute():
    updates = [LowRank(torch.eye(4)[:, :2] * torch.tensor([1.0, 1e-3]), torch.eye(5)[:2])]
    assert align_knots(updates, 1e-5).shape == (2, 5)
    assert align_knots(updates, 1e-2).shape == (1, 5)
    assert align_knots(updates, 2.0).read().shape == (1, 0, 5)


def test_full_coordinates_are_not_kept():
    aligned = align_full(updates_of((4, 4), (1,)), 0.0)
    assert aligned.read().data_ptr() != aligned.read().data_ptr()


@pytest.mark.parametrize("align", [align_core, lambda updates, _: compress(updates)])
def test_spaces_on_factors_refuse_dense_updates(align):
    with pytest.raises(KnotsError, match="1 of 2 are dense"):
        align([*updates_of((4, 4), (1,)), Dense(torch.ones(4, 4))], 0.0)


def modules_for_all(seed=0):
    shapes = {"a": (10, 7), "b": (6, 9), "c": (5, 5)}
    return {name: updates_of(shape, (2, 3, 1), seed + n) for n, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("space", SPACES)
def test_many_modules_are_aligned_as_one_is(space):
    check_alike(align_modules(SPACES[space], modules_for_all(), 1e-2), space)


@pytest.mark.parametrize("space", [name for name, align in SPACES.items() if align in STEPS])
def test_steps_for_a_gpu_give_the_same_on_a_cpu(space):
    steps = [STEPS[SPACES[space]](updates, 1e-2) for updates in modules_for_all().values()]
    check_alike(dict(zip(modules_for_all(), decompose_all(steps), strict=True)), space)


def check_alike(aligned, space):
    for name, updates in modules_for_all().items():
        alone = SPACES[space](updates, 1e-2)
        assert aligned[name].shape == alone.shape
        assert torch.equal(aligned[name].read(), alone.read())


@pytest.mark.gpu
@pytest.mark.parametrize("space", SPACES)
def test_a_gpu_is_not_waited_for_between_modules(space):
    on_cpu = modules_for_all()
    on_gpu = {name: [update.to("cuda") for update in updates] for name, updates in on_cpu.items()}
    align_modules(SPACES[space], on_gpu, 1e-5, "cuda")  # what libraries do at their first call
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = align_modules(SPACES[space], on_gpu, 1e-5, "cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for name, updates in on_cpu.items():
        expected = SPACES[space](updates, 1e-5)
        lifted = [found[name].lift(part).dense().cpu() for part in found[name].read()]
        for update, part in zip(updates, lifted, strict=True):
            torch.testing.assert_close(part, update.dense(), rtol=1e-4, atol=1e-4)
        assert found[name].shape == expected.shape
