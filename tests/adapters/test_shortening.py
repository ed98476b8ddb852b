import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from knots.adapters import shortening
from knots.adapters.shortening import full_rank_square, shorten, shorten_all
from knots.threads import torch_threads
from knots.updates import Deferred, Dense, LowRank


def random(rows: int, columns: int, rank: int, seed: int) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    return LowRank(
        torch.randn(rows, rank, generator=generator), torch.randn(rank, columns, generator=generator)
    )


SIDES = st.integers(1, 12)


@settings(deadline=None, max_examples=60)
@given(rows=SIDES, columns=SIDES, rank=st.integers(1, 4), copies=st.integers(1, 3), seed=st.integers(0, 9))
def test_repeated_factors_come_back_to_their_rank(
    rows: int, columns: int, rank: int, copies: int, seed: int
) -> None:
    base = random(rows, columns, rank, seed)
    weights = torch.linspace(1, 2, copies)
    long = LowRank(
        torch.cat([base.b * w for w in weights], dim=1), torch.cat([base.a / w for w in weights], dim=0)
    )
    short = shorten(long, None)
    assert short.update.rank == min(rows, columns, rank)
    assert short.cut == 0
    assert_close(short.update.dense(), long.dense(), rtol=1e-4, atol=1e-5)


def test_factors_that_are_thin_enough_keep_their_bits() -> None:
    update = random(9, 7, 4, seed=0)
    assert shorten(update, None).update is update
    assert shorten(update, 4).update is update


@pytest.mark.parametrize("smallest", [1e-4, 1e-5])
def test_small_directions_are_kept(smallest: float) -> None:
    """A direction 10,000 times weaker than another is part of the update; only rounding is not."""
    update = random(40, 30, 3, seed=1)
    b = torch.linalg.qr(update.b)[0] * torch.tensor([1.0, 1.0, smallest])
    a = torch.linalg.qr(update.a.T)[0].T
    assert shorten(LowRank(b, a.contiguous()), None).update.rank == 3


@pytest.mark.parametrize(
    "update", [random(6, 5, 0, 0), random(6, 5, 2, 0).scaled(0.0), Dense(torch.zeros(6, 5))]
)
@pytest.mark.parametrize("max_rank", [None, 3])
def test_zero_updates_have_rank_zero(update: LowRank | Dense, max_rank: int | None) -> None:
    short = shorten(update, max_rank)
    assert short.update.rank == 0
    assert short.update.shape == (6, 5)
    assert short.cut == short.total == 0


@settings(deadline=None, max_examples=60)
@given(
    rows=SIDES,
    columns=SIDES,
    rank=st.integers(1, 15),
    limit=st.integers(1, 6),
    dense=st.booleans(),
    seed=st.integers(0, 9),
)
def test_truncation_is_the_best_and_its_cost_is_true(
    rows: int, columns: int, rank: int, limit: int, dense: bool, seed: int
) -> None:
    low = random(rows, columns, rank, seed)
    update = Dense(low.dense()) if dense else low
    short = shorten(update, limit)
    s = torch.linalg.svdvals(low.dense(torch.float64))
    assert short.update.rank == min(limit, rows, columns, rank)
    assert short.total == pytest.approx(float(s.square().sum()), rel=1e-5)
    lost = (low.dense(torch.float64) - short.update.dense(torch.float64)).square().sum()
    noise = 1e-10 * short.total
    assert short.cut == pytest.approx(float(lost), rel=1e-4, abs=noise)
    assert short.cut == pytest.approx(float(s[limit:].square().sum()), rel=1e-4, abs=noise)


def test_the_cheap_test_agrees_with_singular_values() -> None:
    for exponent in range(9):
        update = random(30, 30, 4, seed=exponent)
        scales = torch.tensor([1.0, 1.0, 1.0, 10.0**-exponent])
        thin = LowRank(update.b * scales, update.a)
        square = full_rank_square(thin)
        if exponent <= 4:
            assert square == pytest.approx(float(thin.dense(torch.float64).square().sum()), rel=1e-9)
        if exponent >= 7:
            assert square is None


def test_a_rank_above_the_sides_is_never_called_full() -> None:
    assert full_rank_square(random(3, 4, 5, seed=0)) is None
    assert not math.isnan(shorten(random(3, 4, 5, seed=0), None).total)


@pytest.mark.parametrize("shape", [(640, 640), (640, 700), (700, 640)])
@pytest.mark.parametrize("kind", ["tail", "noise", "rank 7"])
def test_large_matrices_are_shortened_as_small_ones(
    shape: tuple[int, int], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a few leading triples where they suffice, as in the first and last kind; by all of them in noise."""
    strong = random(*shape, 7, seed=0).dense()
    tail = random(*shape, 640 if kind == "noise" else 30, seed=1).dense()
    update = Dense({"tail": strong + 0.2 * tail, "noise": tail, "rank 7": strong}[kind])
    plain = shorten(update, 10)
    found: list[bool] = []
    leading = shortening.leading_basis

    def watched(*arguments, **options):
        found.append((basis := leading(*arguments, **options)) is not None)
        return basis

    monkeypatch.setattr(shortening, "KRYLOV_SIDE", 600)
    monkeypatch.setattr(shortening, "leading_basis", watched)
    short = shorten(update, 10)
    assert found == [kind != "noise"]
    assert short.update.rank == plain.update.rank == (7 if kind == "rank 7" else 10)
    assert short.total == pytest.approx(plain.total, rel=1e-9)
    assert short.cut == pytest.approx(plain.cut, rel=2e-6, abs=1e-10 * plain.total)
    lost = (update.dense(torch.float64) - short.update.dense(torch.float64)).square().sum()
    assert short.cut == pytest.approx(float(lost), rel=1e-4, abs=1e-10 * plain.total)
    assert torch.equal(short.update.dense(), shorten(update, 10).update.dense())


@pytest.mark.parametrize("max_rank", [None, 2])
def test_updates_that_are_computed_when_read_are_read_once(
    max_rank: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortening, "AT_ONCE", 0)  # in their turn, so that the order can be told
    reads: list[str] = []
    checked: list[str] = []

    def deferred(name: str, weight: torch.Tensor) -> Deferred:
        return Deferred(weight.shape, lambda: reads.append(name) or weight)

    updates = {
        "a": deferred("a", random(6, 5, 3, seed=0).dense()),
        "b": deferred("b", torch.zeros(4, 3)),
        "c": random(4, 3, 2, seed=1),
    }
    short, cost = shorten_all(updates, max_rank, check=lambda name, _: checked.append(name))
    assert reads == ["a", "b"]
    assert checked == ["a", "b", "c"]
    assert (short["a"] is updates["a"]) == (max_rank is None)
    assert short["b"].rank == 0
    assert short["c"] is updates["c"]
    assert (cost > 0) == (max_rank is not None)


@pytest.mark.parametrize("max_rank", [None, 2])
def test_side_by_side_as_one_after_the_other(max_rank: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    updates = {f"m{seed}": random(6, 5, 1 + seed % 4, seed=seed) for seed in range(12)}
    updates |= {f"d{seed}": Dense(random(6, 5, 3, seed=seed).dense()) for seed in range(4)}
    with torch_threads(3):
        short, cost = shorten_all(updates, max_rank)
        monkeypatch.setattr(shortening, "AT_ONCE", 0)
        in_turn, cost_in_turn = shorten_all(updates, max_rank)
    assert list(short) == list(in_turn) == list(updates)
    for module, update in short.items():
        assert_close(update.dense(), in_turn[module].dense(), rtol=1e-5, atol=1e-6)
    assert cost == pytest.approx(cost_in_turn)
