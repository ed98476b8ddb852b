import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import knots
from knots import KnotsError
from tests.random_adapters import random_adapters, relative_distance, relative_error

SHAPES = {"a": (6, 5), "b": (4, 7)}
NAMES = ("task_0", "task_1", "task_2")


def random_fishers(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {t: {m: torch.randn(s, generator=generator).square() for m, s in SHAPES.items()} for t in NAMES}


@pytest.fixture
def fishers():
    return random_fishers()


@pytest.fixture
def adapters():
    return random_adapters(0, shapes=SHAPES)


def merge(adapters, fishers, **options):
    return knots.merge(
        adapters, **{"space": "full", "rule": "fisher", "scale": 1.0, "fishers": fishers, **options}
    )


def average(adapters, weights=None):
    return knots.merge(adapters, space="full", rule="sum", reduce="mean", scale=1.0, weights=weights)


def slowly(adapters, fishers, weights, floor):
    """One entry after the other, in Python's own numbers."""
    merged = {}
    for module, shape in SHAPES.items():
        updates = [a.updates[module].dense() for a in adapters]
        parts = [fishers[a.name][module] for a in adapters]
        level = sum(w * float(f.double().mean()) for w, f in zip(weights, parts, strict=True)) / sum(weights)
        merged[module] = torch.empty(shape)
        for row in range(shape[0]):
            for column in range(shape[1]):
                shares = [
                    w * (float(f[row, column]) + floor * level) for w, f in zip(weights, parts, strict=True)
                ]
                total = sum(s * float(u[row, column]) for s, u in zip(shares, updates, strict=True))
                merged[module][row, column] = total / sum(shares)
    return merged


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    weights=st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=3, max_size=3),
    floor=st.sampled_from([0.0, 1e-6, 0.5]),
)
def test_every_entry_is_the_average_weighted_by_fisher_information(seed, weights, floor):
    adapters, fishers = random_adapters(seed, shapes=SHAPES), random_fishers(seed)
    merged = merge(adapters, fishers, weights=weights, floor=floor)
    got = {m: u.dense() for m, u in merged.updates.items()}
    assert relative_distance(got, slowly(adapters, fishers, weights, floor)) < 1e-5


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5]])
@pytest.mark.parametrize("floor", [0.0, 1e-6, 1.0])
def test_equal_fishers_give_the_average(adapters, fishers, weights, floor):
    same = dict.fromkeys(NAMES, fishers["task_0"])
    merged = merge(adapters, same, weights=weights, floor=floor)
    assert relative_error(merged, average(adapters, weights)) < 1e-6


def test_a_task_whose_fisher_grows_takes_the_merge_over(adapters, fishers):
    errors = []
    for factor in (1.0, 1e2, 1e4, 1e6):
        grown = fishers | {"task_1": {m: factor * (f + 0.1) for m, f in fishers["task_1"].items()}}
        errors.append(relative_error(merge(adapters, grown), adapters[1]))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.3
    assert errors[-1] < 1e-4


def test_only_the_ratio_of_fishers_counts(adapters, fishers):
    small = {t: {m: 1e-20 * f for m, f in part.items()} for t, part in fishers.items()}
    assert relative_error(merge(adapters, small), merge(adapters, fishers)) < 1e-5


@pytest.mark.parametrize("floor", [0.0, 1e-6])
def test_entries_that_no_task_depends_on_become_the_average(adapters, fishers, floor):
    for part in fishers.values():
        part["a"][2:4] = 0
        part["b"].zero_()
    merged = merge(adapters, fishers, weights=[1.0, 2.0, 0.5], floor=floor)
    expected = average(adapters, [1.0, 2.0, 0.5])
    for module, rows in (("a", slice(2, 4)), ("b", slice(None))):
        torch.testing.assert_close(
            merged.updates[module].dense()[rows], expected.updates[module].dense()[rows]
        )
    assert not torch.allclose(merged.updates["a"].dense()[:2], expected.updates["a"].dense()[:2])


def test_a_task_of_weight_zero_counts_for_nothing(adapters, fishers):
    huge = fishers | {"task_2": {m: 1e9 * f for m, f in fishers["task_2"].items()}}
    merged = merge(adapters, huge, weights=[1.0, 3.0, 0.0])
    assert relative_error(merged, merge(adapters[:2], fishers, weights=[1.0, 3.0])) < 1e-6


def test_missing_and_misfitting_fishers_are_named(adapters, fishers):
    with pytest.raises(KnotsError, match="rule 'fisher' needs fishers"):
        knots.merge(adapters, space="full", rule="fisher", scale=1.0)
    with pytest.raises(KnotsError, match="fishers hold nothing for module 'a' of task 'task_2'"):
        merge(adapters, {t: fishers[t] for t in NAMES[:2]})
    with pytest.raises(KnotsError, match="fishers hold nothing for module 'b' of task 'task_1'"):
        merge(adapters, fishers | {"task_1": {"a": fishers["task_1"]["a"]}})
    turned = fishers | {"task_1": {m: f.T for m, f in fishers["task_1"].items()}}
    with pytest.raises(
        KnotsError, match=r"'a' of task 'task_1' have shape \(5, 6\), the update has \(6, 5\)"
    ):
        merge(adapters, turned)
    for bad in (-1.0, torch.nan, torch.inf):
        spoilt = fishers | {"task_0": {m: torch.full(s, bad) for m, s in SHAPES.items()}}
        with pytest.raises(KnotsError, match="'a' of task 'task_0' are negative or not finite"):
            merge(adapters, spoilt)


@pytest.mark.parametrize("space", ["knots", "knots_rows", "core"])
def test_other_spaces_are_refused_also_where_the_shapes_would_fit(space):
    adapters = random_adapters(0, ranks=(4, 4, 4), shapes={"a": (6, 6)})
    fishers = {t: {"a": torch.ones(6, 6)} for t in NAMES}
    with pytest.raises(KnotsError, match=f"rule fisher works in space 'full' only, not in '{space}'"):
        merge(adapters, fishers, space=space)


@pytest.mark.parametrize("floor", [-1e-6, torch.nan, torch.inf])
def test_a_floor_out_of_range_is_refused(adapters, fishers, floor):
    with pytest.raises(KnotsError, match=r"floor=.*allowed: 0 or more"):
        merge(adapters, fishers, floor=floor)
