import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from knots import Dense, KnotsError
from knots.rules.base import Census, Site
from knots.rules.spectral import Cart, Tsv, isotropize
from tests.random_adapters import random_update


def orthonormal(rows, columns, generator):
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator)).Q


def merge(rule, coords, ranks, shape=None):
    site = Site("m", shape or tuple(coords.shape[1:]), ranks)
    return rule.merge(site, coords, Census(tuple("abc"[: len(coords)]), coords[0].numel()))


def test_tsv_on_orthogonal_tasks_is_their_sum(generator):
    left, right = orthonormal(8, 4, generator), orthonormal(9, 4, generator)
    coords = torch.stack([left[:, :2] @ right[:, :2].T, 3 * left[:, 2:] @ right[:, 2:].T])
    torch.testing.assert_close(merge(Tsv(), coords, (2, 2)), coords.sum(dim=0), rtol=1e-4, atol=1e-5)


def test_tsv_keeps_the_smaller_of_rank_and_share(generator):
    coords = torch.stack([random_update((8, 9), 3, generator).dense() for _ in range(2)])
    assert torch.linalg.matrix_rank(merge(Tsv(), coords, (3, 3))) == 6
    assert torch.linalg.matrix_rank(merge(Tsv(), coords, (3, 1))) == 4
    assert torch.linalg.matrix_rank(merge(Tsv(), coords, (3, 3), shape=(4, 9))) == 4


def test_cart_with_all_triples_adds_the_centred_tasks(generator):
    coords = torch.randn(3, 5, 6, generator=generator)
    merged = merge(Cart(pruning_rank=1.0, cart_scale=0.5), coords, (5, 5, 5))
    # The centred updates sum to zero, so with every triple kept only the average is left.
    torch.testing.assert_close(merged, coords.mean(dim=0), rtol=1e-4, atol=1e-5)


def test_cart_prunes_each_task_around_the_average(generator):
    coords = torch.randn(2, 5, 6, generator=generator)
    count = math.ceil(0.3 * 5)
    average = coords.mean(dim=0)
    total = torch.zeros(5, 6)
    for part in coords:
        u, s, vt = torch.linalg.svd(part - average, full_matrices=False)
        total += (u[:, :count] * s[:count]) @ vt[:count]
    merged = merge(Cart(pruning_rank=0.3, cart_scale=0.5), coords, (5, 5))
    torch.testing.assert_close(merged, average + 0.5 * total, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pruning_rank", [0.0, -1.0, 1.01])
def test_cart_refuses_a_fraction_out_of_range(pruning_rank):
    with pytest.raises(KnotsError, match="0 < pruning_rank <= 1"):
        Cart(pruning_rank=pruning_rank, cart_scale=1.0)


@settings(deadline=None)
@given(st.sampled_from(["tsv", "cart"]), st.integers(0, 20))
def test_rules_commute_with_orthonormal_maps(rule, seed):
    generator = torch.Generator().manual_seed(seed)
    built = Tsv() if rule == "tsv" else Cart(pruning_rank=0.4, cart_scale=0.7)
    coords = torch.randn(2, 4, 5, generator=generator)
    left, right = orthonormal(9, 4, generator), orthonormal(8, 5, generator)
    moved = merge(built, left @ coords @ right.T, (2, 2), shape=(4, 5))
    torch.testing.assert_close(moved, left @ merge(built, coords, (2, 2)) @ right.T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dense", [False, True])
def test_isotropizing_levels_the_singular_values(generator, dense):
    update = random_update((8, 9), 3, generator)
    leveled = isotropize(Dense(update.dense()) if dense else update)
    before, after = (torch.linalg.svdvals(u.dense()) for u in (update, leveled))
    assert leveled.rank == 3
    torch.testing.assert_close(after[:3], before[:3].mean().expand(3), rtol=1e-4, atol=1e-5)
    assert float(after[3:].max()) < 1e-4


def test_isotropizing_zero_gives_rank_zero():
    assert isotropize(Dense(torch.zeros(3, 4))).rank == 0
