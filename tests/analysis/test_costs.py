"""What merges cost, checked on ones whose cost is known."""

from functools import partial

import pytest
import torch

import knots
from knots import Adapter, Dense, LowRank
from knots.analysis import costs
from knots.analysis.costs import measure_cost, peak_on_cpu
from tests.random_adapters import SHAPES, random_adapters

KILO = 4 * 1000  # bytes of a thousand float32 numbers


def steps():
    """Holds 1, 3, 2 and 10 thousand numbers, the last two of them at the end."""
    first = torch.zeros(1000)
    second = torch.zeros(2000)
    del first
    third = torch.zeros(8000)
    del second
    return third


def test_the_peak_is_the_most_that_is_held_at_once():
    assert peak_on_cpu(steps) == 10 * KILO


def test_what_was_there_before_does_not_count():
    held = torch.zeros(100_000)
    assert peak_on_cpu(lambda: held.zero_()) == 0
    assert peak_on_cpu(lambda: held[:1000].clone()) == KILO


def test_a_merge_has_the_rank_and_parameters_of_its_factors():
    adapters = random_adapters(0, ranks=(1,))
    cost = measure_cost(adapters, partial(knots.merge, **knots.METHODS["knots_ties"], scale=1.0), "cpu")
    assert cost.rank == 3
    assert cost.parameters == sum(3 * (rows + columns) for rows, columns in SHAPES.values())
    assert cost.seconds > 0
    assert cost.peak_bytes > 4 * cost.parameters


def test_a_dense_merge_is_made_though_it_would_be_computed_later():
    adapters = random_adapters(0)
    cost = measure_cost(adapters, partial(knots.merge, **knots.METHODS["ties"], scale=1.0), "cpu")
    assert cost.rank == 10
    assert cost.parameters == sum(rows * columns for rows, columns in SHAPES.values())
    assert cost.peak_bytes > 3 * 4 * 12 * 10  # the coordinates of three tasks at least


@pytest.mark.parametrize(("seconds", "calls"), [(0.1, 5), (3.0, 1)])
def test_short_merges_are_timed_several_times(monkeypatch: pytest.MonkeyPatch, seconds: float, calls: int):
    timed = []

    def fake(make, device):
        timed.append(device)
        return seconds * len(timed)

    monkeypatch.setattr(costs, "_timed", fake)
    one = Adapter("", {"m": LowRank(torch.ones(2, 1), torch.ones(1, 3)), "n": Dense(torch.ones(4, 5))})
    cost = measure_cost([one], lambda given: given[0], "cpu")
    assert len(timed) == calls
    assert cost.seconds == pytest.approx(0.3 if calls == 5 else 3.0)
    assert (cost.rank, cost.parameters) == (4, 5 + 20)


@pytest.mark.gpu
def test_on_a_gpu_the_peak_is_that_of_its_allocator():
    def merge(given):
        return Adapter("", {"m": Dense(torch.zeros(512, 1024, device="cuda"))})

    cost = measure_cost(random_adapters(0), merge, "cuda")
    assert cost.peak_bytes == 4 * 512 * 1024
