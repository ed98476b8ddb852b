"""Sharing items out among processes: each exactly once, the same batches, no process without a batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from knots.evaluation.batches import ImageCut, sharded_loaders
from knots.prefetching import Waiting
from knots.suites.data import ImageArrays


def arrays(count: int) -> ImageArrays:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    images.flags.writeable = False
    return ImageArrays(images, np.arange(count) % 7)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(1, 9), st.integers(1, 5))
def test_every_item_once_in_the_same_batches(sizes: list[int], batch_size: int, processes: int):
    splits = [ImageCut(arrays(size), task, batch_size) for task, size in enumerate(sizes)]
    alone = sharded_loaders(splits, 0, 1)
    expected = {
        (batch.task, tuple(batch.items.tolist())) for loader in alone for batch in loader if len(batch.items)
    }
    shared: list[tuple[int, tuple[int, ...]]] = []
    loads = []
    for rank in range(processes):
        loaders = sharded_loaders(splits, rank, processes)
        batches = [batch for loader in loaders for batch in loader]
        assert all(len(loader) == len(list(loader)) >= 1 for loader in loaders)
        for batch in batches:
            np.testing.assert_array_equal(batch.images[:, 0, 0, 0], batch.items)
            assert torch.equal(batch.labels, batch.items % 7)
        full = [(batch.task, tuple(batch.items.tolist())) for batch in batches if len(batch.items)]
        loads.append(len(full))
        shared += full
    assert len(shared) == len(set(shared))
    assert set(shared) == expected
    assert sorted((task, i) for task, items in shared for i in items) == [
        (task, i) for task, size in enumerate(sizes) for i in range(size)
    ]
    # Evenly over the whole suite, not only within a task.
    assert max(loads) - min(loads) <= 1


def test_all_loaders_count_into_one_waiting():
    waiting = Waiting()
    loaders = sharded_loaders([ImageCut(arrays(5), 0, 2), ImageCut(arrays(0), 1, 2)], 0, 1, waiting)
    for loader in loaders:
        before = waiting.seconds
        assert len(list(loader)) >= 1
        assert waiting.seconds > before


@pytest.mark.gpu
def test_pinned_batches_have_the_same_content():
    (plain,), (pinned,) = (
        sharded_loaders([ImageCut(arrays(7), 0, 3, pinned=flag)], 0, 1) for flag in (False, True)
    )
    for first, second in zip(plain, pinned, strict=True):
        assert all(tensor.is_pinned() for tensor in second[1:])
        assert all(torch.equal(a, b) for a, b in zip(first[1:], second[1:], strict=True))
