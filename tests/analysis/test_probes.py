"""Probes on rules whose answers are known."""

import math
from functools import partial

import pytest
import torch

import knots
from knots import Adapter, Dense, KnotsError, LowRank
from knots.analysis import probes
from tests.random_adapters import random_adapters

ROUNDING = 1e-4


def method(name, **options):
    return partial(knots.merge, **knots.METHODS[name], **{"scale": 1.0, **options})


TA = method("task_arithmetic")
MEAN = method("task_arithmetic", reduce="mean")
KNOTS_TIES = method("knots_ties", density=0.3)


@pytest.mark.parametrize(("name", "moves"), [
    ("task_arithmetic", False), ("ties", False), ("knots_ties", False), ("knots_ties_count", False),
    ("core_tsv", False), ("core_ties", True),
])  # fmt: skip
def test_core_ties_alone_depends_on_the_factors(name, moves):
    options = {"density": 0.3} if "ties" in name else {}
    change = probes.factor_change(random_adapters(0), method(name, **options))
    assert change > 0.1 if moves else change < ROUNDING


def test_factor_changes_are_general_seeded_and_change_no_update():
    seen = []
    adapters = random_adapters(0, ranks=(2, 3))

    def watch(given):
        seen.append(given)
        return given[0]

    for seed in (0, 0, 1):
        probes.factor_change(adapters, watch, seed=seed)
    for adapter, same, first, other in zip(adapters, seen[2], seen[0], seen[4], strict=True):
        for module, update in adapter.updates.items():
            b = first.updates[module].b
            assert probes.relative_change(first, adapter) < 1e-6
            assert torch.equal(b, same.updates[module].b)
            assert not torch.allclose(b, other.updates[module].b)
            g = torch.linalg.lstsq(update.b.double(), b.double()).solution
            assert float(torch.linalg.cond(g)) == pytest.approx(10, rel=1e-3)


def test_dense_updates_have_no_factors():
    adapters = [Adapter("a", {"m": Dense(torch.eye(3))})]
    assert probes.factor_change(adapters, TA) == 0


def test_a_rule_that_takes_the_first_depends_on_the_order():
    adapters = random_adapters(0)
    assert probes.reordering(adapters, KNOTS_TIES) < ROUNDING
    for seed in range(4):
        taken = probes.reordering(adapters[:2], lambda given: given[0], seed=seed)
        assert taken > 0.1


def test_twice_the_updates():
    adapters = random_adapters(0)
    assert probes.scaling(adapters, KNOTS_TIES) < ROUNDING
    assert probes.scaling(adapters, lambda _: adapters[0]) == pytest.approx(0.5)
    first, merged = adapters[0].updates, TA(adapters).updates
    ratio = max(float(first[m].dense().norm() / u.dense().norm()) for m, u in merged.items())
    assert probes.one_scaled(adapters, TA) == pytest.approx(ratio, rel=1e-5)


def test_an_adapter_that_says_nothing():
    adapters = random_adapters(0)
    with pytest.raises(KnotsError, match="'zero' is a zero update"):
        probes.zero_adapter(adapters, TA)
    assert probes.zero_adapter(adapters, lambda given: given[0]) == 0
    assert probes.small_adapter(adapters, TA) < 1e-5
    assert probes.small_adapter(adapters, MEAN) == pytest.approx(0.25, rel=1e-4)


def test_the_same_adapters_twice_in_a_list_and_the_same_call_twice():
    adapters = random_adapters(0)
    assert probes.twice(adapters, TA) == pytest.approx(1, rel=1e-5)
    assert probes.twice(adapters, MEAN) < ROUNDING
    assert probes.repeatable(adapters, KNOTS_TIES)
    noise = torch.Generator().manual_seed(0)

    def random(_):
        return Adapter("", {"m": Dense(torch.randn(2, 2, generator=noise))})

    assert not probes.repeatable(adapters, random)


def test_one_adapter_alone():
    adapters = random_adapters(0)
    assert probes.alone(adapters, method("knots_ties", scale=0.3), scale=0.3) < ROUNDING
    assert probes.alone(adapters, KNOTS_TIES, scale=1.0) > 0.1


def test_changes_of_nothing_and_of_no_number():
    nothing, something = (Adapter("", {"m": Dense(w)}) for w in (torch.zeros(2, 2), torch.ones(2, 2)))
    assert probes.relative_change(nothing, nothing) == 0
    assert probes.relative_change(something, nothing) == math.inf
    none = Adapter("", {"m": LowRank(torch.full((2, 1), math.nan), torch.ones(1, 2))})
    assert math.isnan(probes.relative_change(none, something))
