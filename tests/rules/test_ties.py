import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from knots import KnotsError
from knots.rules import selection, ties
from knots.rules.base import Census, Site
from knots.rules.dare import task_masks
from knots.rules.selection import smallest
from knots.rules.ties import Ties, elect_and_merge
from tests import reference


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


def whole_tensor_merge(coords, thresholds, weights, reduce):
    """The definition, one whole tensor after the other; sums are over the tasks in their order."""
    if thresholds is not None:
        coords = torch.where(coords.abs() >= thresholds[:, None, None], coords, 0.0)
    agree = coords * sum(coords).sign() > 0
    total = sum(torch.where(agree, coords, 0.0))
    if reduce == "sum":
        return total
    divisor = sum(agree * weights[:, None, None])
    return torch.where(divisor > 0, total / divisor, 0.0)


VALUES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 1e-45, -1e-45, 1e-39]),
    st.floats(-(2.0**100), 2.0**100, width=32),
)


@settings(deadline=None, max_examples=200)
@given(
    data=st.data(),
    tasks=st.integers(1, 9),
    rows=st.integers(0, 5),
    columns=st.integers(1, 9),
    block=st.sampled_from([1, 7, 16, 64, 1 << 18]),
    reduce=st.sampled_from(["mean", "sum"]),
    weighted=st.booleans(),
)
def test_one_pass_gives_the_bits_of_the_definition(data, tasks, rows, columns, block, reduce, weighted):
    coords = torch.from_numpy(data.draw(hnp.arrays(np.float32, (tasks, rows, columns), elements=VALUES)))
    weights = torch.ones(tasks)
    if weighted:
        weights = torch.tensor(data.draw(st.lists(st.floats(0, 2, width=32), min_size=tasks, max_size=tasks)))
        coords = coords * weights[:, None, None]
    rank = data.draw(st.integers(0, rows * columns))
    thresholds = smallest(coords.flatten(1), rank) if rank else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "BLOCK", block)
        patch.setattr(ties, "NARROWEST", 1)
        merged = elect_and_merge(coords, thresholds, weights, reduce)
    assert torch.equal(merged, whole_tensor_merge(coords, thresholds, weights, reduce))


@settings(deadline=None)
@given(values=hnp.arrays(np.float32, (2, 9), elements=VALUES), rank=st.integers(1, 9))
def test_both_ways_of_trimming_keep_the_same(values, rank):
    entries = torch.from_numpy(values)
    thresholds = smallest(entries, rank)
    by_shrinking, by_comparing = torch.empty(2, 2, 9)
    ties._shrinking(thresholds)(entries, by_shrinking)
    ties._comparing(thresholds)(entries, by_comparing)
    assert torch.equal(by_shrinking, by_comparing)
    assert torch.equal(by_shrinking != 0, (entries.abs() >= thresholds[:, None]) & (entries != 0))


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(8, 128, 769), (5, 300, 1001), (17, 64, 640)])
def test_one_pass_over_large_modules_gives_the_bits_of_the_definition(generator, shape, reduce):
    coords = torch.randn(shape, generator=generator)
    thresholds = smallest(coords.flatten(1), int(0.8 * coords[0].numel()))
    ones = torch.ones(len(coords))
    merged = elect_and_merge(coords, thresholds, ones, reduce)
    assert torch.equal(merged, whole_tensor_merge(coords, thresholds, ones, reduce))


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


@pytest.mark.gpu
@pytest.mark.parametrize("trim", ["model", "module"])
@pytest.mark.parametrize("elect", ["sum", "count"])
def test_a_gpu_gives_the_same_bits(generator, trim, elect):
    modules = {
        m: torch.randn(3, *shape, generator=generator) for m, shape in {"a": (40, 50), "b": (7, 3)}.items()
    }
    rule = Ties(density=0.3, trim=trim, elect=elect)
    on_gpu = run(rule, {m: coords.cuda() for m, coords in modules.items()})
    for m, expected in run(rule, modules).items():
        assert torch.equal(on_gpu[m].cpu(), expected)
