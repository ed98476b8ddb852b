import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from knots import KnotsError
from knots.rules.base import Census, Site
from knots.rules.dare import task_masks
from knots.rules.ties import RadixSelection, Ties, elect_and_merge, smallest
from tests import reference

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
FEW = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.4e38, 1.0000001])


@settings(deadline=None)
@given(hnp.arrays(np.float32, (2, 17), elements=st.one_of(FEW, FLOATS)), st.integers(1, 17))
@example(np.zeros((2, 17), np.float32), 17)
def test_radix_selection_is_exact(values, rank):
    coords = torch.from_numpy(values)
    expected = coords.abs().sort(dim=1).values[:, rank - 1]
    assert torch.equal(smallest(coords, rank), expected)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.floats(0, 1), st.integers(0, 5))
def test_selection_over_modules_equals_selection_over_their_concatenation(sizes, position, seed):
    generator = torch.Generator().manual_seed(seed)
    modules = [torch.randn(3, size, generator=generator) for size in [*sizes, 1]]
    rank = max(1, round(position * (sum(sizes) + 1)))
    selection = RadixSelection(3, rank)
    for _ in range(RadixSelection.rounds):
        for module in modules:
            selection.count(module)
        selection.end_round()
    assert torch.equal(selection.values, torch.cat(modules, dim=1).abs().kthvalue(rank, dim=1).values)


def run(rule, modules):
    """One whole session over modules [T, P, Q]."""
    tasks = len(next(iter(modules.values())))
    sites = {m: Site(m, tuple(c.shape[1:]), (1,) * tasks) for m, c in modules.items()}
    census = Census(tuple(f"t{i}" for i in range(tasks)), sum(c[0].numel() for c in modules.values()))
    session = rule.begin(census)
    for _ in range(session.rounds):
        for m, coords in modules.items():
            session.observe(sites[m], coords)
        session.end_round()
    return {m: session.apply(sites[m], coords) for m, coords in modules.items()}


@settings(deadline=None, max_examples=60)
@given(
    density=st.floats(0.01, 1),
    reduce=st.sampled_from(["mean", "sum"]),
    trim=st.sampled_from(["model", "module"]),
    coarse=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_ties_equals_the_plain_algorithm(density, reduce, trim, coarse, seed):
    generator = torch.Generator().manual_seed(seed)
    modules = {
        m: torch.randn(3, *shape, generator=generator) for m, shape in {"a": (4, 5), "b": (2, 3)}.items()
    }
    if coarse:  # many equal magnitudes, zeros and sums that cancel
        modules = {m: c.round() for m, c in modules.items()}
    merged = run(Ties(density=density, reduce=reduce, trim=trim), modules)
    tasks = [{m: c[t] for m, c in modules.items()} for t in range(3)]
    for m, expected in reference.ties(tasks, density, reduce, trim).items():
        torch.testing.assert_close(merged[m], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("numel", "density", "kept"), [(10, 0.2, 3), (10, 0.99, 10), (10, 1.0, 10), (10, 0.01, 1)]
)
def test_trimming_keeps_the_references_count(numel, density, kept):
    coords = torch.arange(1.0, numel + 1).view(1, 1, numel)
    merged = run(Ties(density=density), {"m": coords})["m"]
    assert int((merged != 0).sum()) == kept
    assert float(merged.max()) == numel


def test_a_sum_that_cancels_merges_to_zero():
    coords = torch.tensor([[[1.0, 2.0]], [[-1.0, 1.0]]])
    assert elect_and_merge(coords, None, torch.ones(2), "mean").tolist() == [[0.0, 1.5]]


def test_a_weighted_mean_divides_by_the_kept_weights():
    weights = torch.tensor([3.0, 1.0, 2.0])
    coords = torch.tensor([[[1.0]], [[2.0]], [[-1.0]]]) * weights[:, None, None]
    merged = elect_and_merge(coords, None, weights, "mean")
    assert float(merged) == pytest.approx((3 * 1 + 1 * 2) / (3 + 1))


def test_signs_may_be_elected_by_count_and_the_sum_decides_a_tie():
    coords = torch.tensor([[[1.0, 3.0, 2.0]], [[1.0, -1.0, -2.0]], [[-5.0, 0.0, 0.0]]])
    ones = torch.ones(3)
    assert elect_and_merge(coords, None, ones, "mean").tolist() == [[-5.0, 3.0, 0.0]]
    assert elect_and_merge(coords, None, ones, "mean", elect="count").tolist() == [[1.0, 3.0, 0.0]]


def test_weights_are_votes():
    weights = torch.tensor([0.1, 0.2, 0.3])
    signs = torch.tensor([[[1.0, 1.0]], [[1.0, -1.0]], [[-4.0, 1.0]]])
    merged = elect_and_merge(signs * weights[:, None, None], None, weights, "mean", elect="count")
    # 0.1 + 0.2 against 0.3 is a tie, and -1.2 outweighs 0.3; then 0.4 against 0.2.
    torch.testing.assert_close(merged, torch.tensor([[-4.0, 1.0]]))


@settings(deadline=None, max_examples=30)
@given(
    elect=st.sampled_from(["sum", "count"]),
    density=st.sampled_from([0.3, 1.0]),
    drop=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 100),
)
def test_turned_coordinates_merge_to_the_turned_merge(elect, density, drop, seed):
    generator = torch.Generator().manual_seed(seed)
    coords = torch.randn(4, 5, 6, generator=generator).mul(2).round()
    census = Census(tuple("abcd"), 30, masks=task_masks("abcd", drop=drop, seed=seed), drop=drop)
    rule = Ties(density=density, trim="module", elect=elect, dare_after="trim")
    signs = torch.randn(5, 1, generator=generator).sign()
    merged, turned = (
        rule.begin(census).apply(Site("m", (5, 6), (1,) * 4), some) for some in (coords, signs * coords)
    )
    assert torch.equal(signs * merged, turned)


def test_dare_after_the_trimming_drops_what_is_kept():
    coords = torch.arange(1.0, 101).view(1, 10, 10)
    masks = task_masks("a", drop=0.5, seed=0)
    census = Census(("a",), 100, masks=masks, drop=0.5)
    rule = Ties(density=0.19, trim="module", dare_after="trim")
    merged = rule.begin(census).apply(Site("m", (10, 10), (1,)), coords)
    expected = torch.where(coords > 80, coords, 0.0)[0] * 2 * masks("m", (10, 10))[0]
    assert torch.equal(merged, expected)


def test_the_input_is_not_written_to(generator):
    coords = torch.randn(2, 3, 4, generator=generator)
    before = coords.clone()
    run(Ties(density=0.3), {"m": coords})
    assert torch.equal(coords, before)


@pytest.mark.parametrize(
    "options", [{"reduce": "median"}, {"trim": "layer"}, {"elect": "majority"}, {"dare_after": "elect"}]
)
def test_unknown_choices_are_refused(options):
    with pytest.raises(KnotsError, match="allowed"):
        Ties(**options)
