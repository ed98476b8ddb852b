import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from knots.rules.selection import RadixSelection, smallest

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
