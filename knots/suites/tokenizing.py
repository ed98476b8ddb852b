"""From pairs of sentences to token numbers, by the tokenizer's own rule for pairs and without a prompt.

Shapes: N items, S tokens of all items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from knots.errors import KnotsError
from knots.suites.tasks import TextTask
from knots.suites.texts import TextArrays, TextItems

BATCH = 4096
"""Pairs that are handed to the tokenizer together, which spreads them over the cores."""


def tokenize(
    items: TextItems, numbers: npt.NDArray[np.int64], task: TextTask, split: str, tokenizer: Any
) -> TextArrays:
    """Tokenize some items of a split as the reference does: `tokenizer(first, second)`, cut to a length.

    What is too long loses tokens of its longer sentence, one after the other, as the tokenizer's own default
    has it.

    Args:
        items: the split.
        numbers: int64 [N], which of its items.
        task: says how long a pair may be.
        split: its name, for messages.
        tokenizer: of transformers.

    Raises:
        KnotsError: the length leaves no room for a sentence, or both sentences of a pair are blank. A single
            blank one stays, as it does in the reference.
    """
    where = f"the {split} split of task {task.name!r}"
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if task.max_length <= special:
        raise KnotsError(
            f"task {task.name!r}: max_length={task.max_length} leaves no room, for the tokenizer adds "
            f"{special} tokens to every pair"
        )
    tokens, lengths, cut = [np.empty(0, np.int32)], [np.empty(0, np.int64)], 0
    for at in range(0, len(numbers), BATCH):
        batch = numbers[at : at + BATCH].tolist()
        first, second = items.read(batch)
        rows = _encode(tokenizer, first, second, truncation=True, max_length=task.max_length)
        _check_not_blank(first, second, rows, batch, where)
        cut += _count_cut(tokenizer, first, second, rows, task.max_length)
        lengths.append(np.array([len(row) for row in rows], dtype=np.int64))
        tokens.append(np.array([token for row in rows for token in row], dtype=np.int32))
    starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    return TextArrays(np.concatenate(tokens), starts, items.labels[numbers], cut)


def _encode(
    tokenizer: Any, first: Sequence[str], second: Sequence[str], **options: Any
) -> Sequence[Sequence[int]]:
    encoded = tokenizer(
        list(first), list(second), return_attention_mask=False, return_token_type_ids=False, **options
    )
    rows: Sequence[Sequence[int]] = encoded["input_ids"]
    return rows


def _count_cut(
    tokenizer: Any, first: Sequence[str], second: Sequence[str], rows: Sequence[Sequence[int]], length: int
) -> int:
    """How many of the rows are longer without the limit: only those that reach it can be."""
    full = [number for number, row in enumerate(rows) if len(row) >= length]
    if not full:
        return 0
    whole = _encode(tokenizer, [first[i] for i in full], [second[i] for i in full], verbose=False)
    return sum(len(row) > length for row in whole)


def _check_not_blank(
    first: Sequence[str],
    second: Sequence[str],
    rows: Sequence[Sequence[int]],
    items: Sequence[int],
    where: str,
) -> None:
    for one, other, row, item in zip(first, second, rows, items, strict=True):
        if not row or not (one.strip() or other.strip()):
            raise KnotsError(f"{where}: both sentences of item {item} are blank")
