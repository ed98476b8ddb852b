"""Pairs of sentences as tokens: what the tokenizer itself makes of them, cut at the length, and counted."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knots.errors import KnotsError
from knots.suites import tokenizing
from knots.suites.tasks import TextTask
from knots.suites.texts import TextArrays, TextItems
from knots.suites.tokenizing import tokenize
from tests.suites.sentences import CHARACTERS, READING, all_spelt, character_tokenizer, one_task

TASK = one_task("nowhere", {"test": 3})
TEXT = st.text(st.sampled_from([c for c in CHARACTERS if c != "|"]), min_size=1, max_size=12).filter(
    str.strip
)


def items_of(pairs: Sequence[tuple[str, str]]) -> TextItems:
    def read(items: Sequence[int]) -> tuple[list[str], list[str]]:
        return [pairs[item][0] for item in items], [pairs[item][1] for item in items]

    return TextItems(np.arange(len(pairs), dtype=np.int64) % 3, read)


def tokenized(pairs: Sequence[tuple[str, str]], task: TextTask = TASK) -> TextArrays:
    numbers = np.arange(len(pairs), dtype=np.int64)
    return tokenize(items_of(pairs), numbers, task, "test", READING.tokenizer)


@given(st.lists(st.tuples(TEXT, TEXT), max_size=9), st.integers(3, 30), st.integers(1, 4))
def test_every_pair_is_what_the_tokenizer_makes_of_it_alone(
    pairs: list[tuple[str, str]], length: int, batch: int
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizing, "BATCH", batch)
        arrays = tokenized(pairs, replace(TASK, max_length=length))
    alone = [READING.tokenizer(a, b, truncation=True, max_length=length)["input_ids"] for a, b in pairs]
    assert [len(row) for row in alone] == arrays.lengths.tolist()
    assert [token for row in alone for token in row] == arrays.tokens.tolist()
    assert arrays.cut == sum(len(a) + len(b) + 2 > length for a, b in pairs)
    assert arrays.labels.tolist() == [item % 3 for item in range(len(pairs))]
    assert (arrays.tokens.dtype, arrays.starts.dtype) == (np.int32, np.int64)


def test_the_pair_rule_is_the_tokenizers_own():
    arrays = tokenized([("ab", "c"), ("d", "ef")])
    assert all_spelt(arrays) == [("ab", "c"), ("d", "ef")]
    assert arrays.starts.tolist() == [0, 5, 10]


def test_only_the_items_that_are_asked_for_are_read():
    pairs = [(f"a{i}", f"b{i}") for i in range(9)]
    arrays = tokenize(items_of(pairs), np.array([2, 5]), TASK, "test", READING.tokenizer)
    assert all_spelt(arrays) == [pairs[2], pairs[5]]
    assert arrays.labels.tolist() == [2, 2]


def test_one_blank_sentence_stays_and_two_are_refused():
    assert all_spelt(tokenized([("a", ""), (" ", "b")])) == [("a", ""), (" ", "b")]
    message = r"the test split of task 'claims': both sentences of item 1 are blank"
    with pytest.raises(KnotsError, match=message):
        tokenized([("a", "b"), (" ", "")])


def test_a_length_that_leaves_no_room_is_refused():
    with pytest.raises(KnotsError, match=r"max_length=2 leaves no room, .* adds 2 tokens to every pair"):
        tokenized([("a", "b")], replace(TASK, max_length=2))


def test_a_tokenizer_that_was_made_for_less_does_not_complain(capfd: pytest.CaptureFixture[str]):
    tokenizer = character_tokenizer()
    tokenizer.model_max_length = 4
    tokenize(items_of([("a" * 50, "b" * 50)]), np.array([0]), replace(TASK, max_length=20), "test", tokenizer)
    assert capfd.readouterr().err == ""
