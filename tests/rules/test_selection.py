import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from knots.rules import selection
from knots.rules.selection import RadixSelection, smallest
from knots.threads import spread, torch_threads

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
FEW = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.4e38, 1.0000001])


class AsOnAGpu(RadixSelection):
    """Counts as on a GPU, which is not looked at in between."""

    _add = RadixSelection._add_on_device


def selected(radix, modules):
    """The k-th smallest magnitudes [T] of modules [T, n]."""
    for _ in range(radix.rounds):
        for module in modules:
            radix.count(module)
        radix.end_round()
    return radix.values


@settings(deadline=None)
@given(hnp.arrays(np.float32, (2, 17), elements=st.one_of(FEW, FLOATS)), st.integers(1, 17))
@example(np.zeros((2, 17), np.float32), 17)
def test_selection_is_exact(values, rank):
    coords = torch.from_numpy(values)
    expected = coords.abs().sort(dim=1).values[:, rank - 1]
    assert torch.equal(smallest(coords, rank), expected)
    for kind in (RadixSelection, AsOnAGpu):
        assert torch.equal(selected(kind(2, rank), [coords]), expected)


@settings(deadline=None)
@given(
    hnp.arrays(np.float32, (1, 50), elements=st.one_of(FEW, FLOATS)), st.integers(1, 50), st.integers(1, 9)
)
def test_blocks_change_nothing(values, rank, block):
    coords = torch.from_numpy(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "counted_at_once", lambda *_: block)
        found = selected(RadixSelection(1, rank), [coords])
    assert torch.equal(found, smallest(coords, rank))


def test_threads_may_count_at_the_same_time(generator):
    modules = [torch.randn(2, 5000, generator=generator) for _ in range(12)]
    with torch_threads(4):
        chosen = RadixSelection(2, 40_000)
        for _ in range(RadixSelection.rounds):
            spread(chosen.count, modules)
            chosen.end_round()
    assert torch.equal(chosen.values, smallest(torch.cat(modules, dim=1), 40_000))


@settings(deadline=None)
@given(
    st.sampled_from([RadixSelection, AsOnAGpu]),
    st.lists(st.integers(0, 40), min_size=1, max_size=5),
    st.floats(0, 1),
    st.integers(0, 5),
)
def test_selection_over_modules_equals_selection_over_their_concatenation(kind, sizes, position, seed):
    generator = torch.Generator().manual_seed(seed)
    modules = [torch.randn(3, size, generator=generator) for size in [*sizes, 1]]
    rank = max(1, round(position * (sum(sizes) + 1)))
    found = selected(kind(3, rank), modules)
    assert torch.equal(found, torch.cat(modules, dim=1).abs().kthvalue(rank, dim=1).values)
