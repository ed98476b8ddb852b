"""Sharing items out among processes: each exactly once, the same batches, no process without a batch."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from knots.evaluation.batches import ImageCut, TextCut, sharded_loaders
from knots.prefetching import Waiting
from knots.suites.data import ImageArrays
from knots.suites.texts import TextArrays


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


@given(
    st.lists(st.integers(1, 30), max_size=40),
    st.integers(1, 90),
    st.booleans(),
    st.integers(1, 3),
)
def test_pairs_are_batched_by_length_within_the_budget(
    lengths: list[int], budget: int, equal: bool, processes: int
):
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.concatenate([np.full(length, item + 1) for item, length in enumerate(lengths)] or [[]])
    texts = TextArrays(tokens.astype(np.int32), starts, np.arange(len(lengths)) % 3)
    cut = TextCut(texts, 4, budget, pad=0, equal=equal)
    seen: list[int] = []
    widths = []
    for rank in range(processes):
        for batch in sharded_loaders([cut], rank, processes)[0]:
            if len(batch.items) == 0:
                continue
            assert batch.tokens.numel() <= budget or len(batch.items) == 1
            assert batch.tokens.shape == (len(batch.items), int(batch.lengths.max()))
            for item, row, length, label in zip(*batch[1:], strict=True):
                assert length == lengths[item]
                assert (row[:length] == item + 1).all()
                assert not row[length:].any()
                assert label == item % 3
            assert not equal or len(set(batch.lengths.tolist())) == 1
            assert batch.task == 4
            seen += batch.items.tolist()
            widths.append((batch.tokens.shape[1], int(batch.lengths.min())))
    assert sorted(seen) == list(range(len(lengths)))
    # No batch holds items that are shorter than some of a batch of shorter ones.
    widths.sort(reverse=True)
    assert all(shortest >= next_[0] for (_, shortest), next_ in pairwise(widths))


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
