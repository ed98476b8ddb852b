"""Named variants of other papers against slow literal code, and against the method whose name they bear."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import knots
from knots import METHODS
from tests import reference
from tests.random_adapters import random_adapters, relative_distance, relative_error


def matrices(adapters):
    return [{m: u.dense() for m, u in a.updates.items()} for a in adapters]


def merged(adapters, name, **options):
    found = knots.merge(adapters, **METHODS[name], scale=0.5, **options)
    return {m: u.dense() / 0.5 for m, u in found.updates.items()}


@settings(deadline=None, max_examples=8, derandomize=True)
@given(seed=st.integers(0, 1000), density=st.sampled_from([0.2, 0.5, 1.0]))
def test_core_spaces_variant_equals_its_algorithm(seed, density):
    adapters = random_adapters(seed)
    expected = reference.core_spaces_knots_ties(matrices(adapters), density)
    assert relative_distance(merged(adapters, "knots_ties_unscaled", density=density), expected) < 1e-5


@pytest.mark.parametrize("knots_space", [False, True])
@settings(deadline=None, max_examples=8, derandomize=True)
@given(seed=st.integers(0, 1000), density=st.sampled_from([0.3, 1.0]), drop=st.sampled_from([0.0, 0.4]))
def test_taras_variants_equal_their_algorithm(knots_space, seed, density, drop):
    adapters = random_adapters(seed, tasks=4)
    name = f"{'knots_' if knots_space else ''}{'dare_' if drop else ''}ties_count"
    options = {"density": density, "drop": drop, "seed": seed, "dare_rng": "reference"}
    expected = reference.taras_ties(matrices(adapters), density, drop, seed, knots_space)
    assert relative_distance(merged(adapters, name, **options), expected) < 1e-5


@pytest.mark.parametrize("density", [0.1, 0.2, 0.3])
def test_without_singular_values_a_merge_differs_by_60_to_75_percent(density):
    """Random normal rank-16 updates of eight tasks; FACTS 3g says 60 to 73 %."""
    adapters = random_adapters(0, tasks=8, ranks=(16,), shapes={"q": (128, 128), "v": (128, 128)})
    official, unscaled = (
        knots.merge(adapters, **METHODS[name], scale=1.0, density=density)
        for name in ("knots_ties", "knots_ties_unscaled")
    )
    assert 0.6 < relative_error(unscaled, official) < 0.75


def test_where_nothing_is_trimmed_singular_values_change_nothing():
    adapters = random_adapters(1)
    official, unscaled = (
        merged(adapters, name, density=1.0) for name in ("knots_ties", "knots_ties_unscaled")
    )
    assert relative_distance(unscaled, official) < 1e-5


@pytest.mark.parametrize("dare_rng", ["task", "reference"])
@pytest.mark.parametrize("space", ["full", "knots"])
def test_where_nothing_is_trimmed_dare_before_and_after_are_one(space, dare_rng):
    options = {"space": space, "rule": "ties", "scale": 0.5, "drop": 0.4, "seed": 3, "dare_rng": dare_rng}
    before, after = (
        knots.merge(random_adapters(2), **options, dare_after=when) for when in ("alignment", "trim")
    )
    for module, update in before.updates.items():
        assert torch.equal(update.dense(), after.updates[module].dense())


@pytest.mark.parametrize("space", ["full", "knots"])
def test_trimmed_first_dare_keeps_fewer_entries(space):
    options = {"space": space, "rule": "ties", "scale": 1.0, "drop": 0.5, "density": 0.3, "trim": "module"}
    counts = {}
    for when in ("alignment", "trim"):
        found = knots.merge(random_adapters(4, tasks=1), **options, dare_after=when).updates
        shares = [u.a if space == "knots" else u.dense() for u in found.values()]
        counts[when] = sum(int((part != 0).sum()) for part in shares)
    # Before, the 30 % are taken of what DARE has left; after, DARE halves the 30 %.
    assert counts["trim"] < 0.7 * counts["alignment"]


def test_a_variant_is_a_mapping_with_the_options_that_make_it_one():
    assert dict(METHODS["knots_ties"]) == {"space": "knots", "rule": "ties"}
    assert dict(METHODS["knots_dare_ties_count"]) == {
        "space": "knots",
        "rule": "ties",
        "trim": "module",
        "elect": "count",
        "dare_after": "trim",
    }
