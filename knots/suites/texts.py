"""Pairs of sentences as token numbers: what a language task is made of once it was tokenized.

Shapes: N items, S tokens of all items, B items of a batch, L tokens of its longest item.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TextReading:
    """How pairs of sentences become what a model takes.

    Attributes:
        tokenizer: of transformers, which joins two texts in its own way.
        identity: what tells it from others, as plain values.
    """

    tokenizer: Any
    identity: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class TextItems:
    """An opened split, before anything of it is tokenized.

    Attributes:
        labels: int64 [N], the task's own labels.
        read: numbers of items -> their first and their second sentences, in that order.
    """

    labels: npt.NDArray[np.int64]
    read: Callable[[Sequence[int]], tuple[list[str], list[str]]]


@dataclass(frozen=True, eq=False)
class TextArrays:
    """The items of one split, in their own order.

    Attributes:
        tokens: int32 [S], the tokens of all items, one item after the other.
        starts: int64 [N + 1], where each item begins, and S.
        labels: int64 [N], the task's own labels.
        cut: number of items that were longer than the task allows.
    """

    tokens: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    cut: int = 0

    def __len__(self) -> int:
        """Number of items N."""
        return len(self.labels)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """int64 [N], tokens of each item."""
        return np.diff(self.starts)

    def padded(self, items: Sequence[int] | Numbers, pad: int) -> tuple[Tensor, Tensor]:
        """Some items as a rectangle, padded on the right.

        Args:
            items: B numbers of items.
            pad: the token that fills the rows up.

        Returns:
            Tokens int64 [B, L] and lengths int64 [B].
        """
        numbers = np.asarray(items, dtype=np.int64)
        lengths = self.lengths[numbers]
        columns = np.arange(lengths.max(initial=0))
        # Beyond an item's end any token will do: it is replaced.
        places = np.minimum(self.starts[numbers, None] + columns, len(self.tokens) - 1)
        rows = np.where(columns < lengths[:, None], self.tokens[places], pad).astype(np.int64)
        return torch.from_numpy(rows), torch.from_numpy(lengths)

    def batch(self, items: Sequence[int] | Numbers, pad: int) -> tuple[Tensor, Tensor, Tensor]:
        """What `padded` gives, and the labels int64 [B]."""
        return (*self.padded(items, pad), torch.from_numpy(np.array(self.labels[items], dtype=np.int64)))


def by_length(
    lengths: Numbers, budget: int, *, longest_first: bool = False, equal: bool = False
) -> list[Numbers]:
    """Cut items into batches of like length, as few as fit.

    Args:
        lengths: int64 [N], tokens of each item.
        budget: the most tokens of a batch, padding included; an item that is longer is a batch of its own.
        longest_first: else the shortest are.
        equal: only items of one length share a batch, so that nothing is padded.

    Returns:
        Numbers of the items of each batch; no batch where there are no items.
    """
    order = np.argsort(-lengths if longest_first else lengths, kind="stable")
    ordered = lengths[order].tolist()
    batches, first = [], 0
    for at, length in enumerate(ordered):
        full = (at + 1 - first) * max(length, ordered[first]) > budget
        if at > first and (full or (equal and length != ordered[first])):
            batches.append(order[first:at])
            first = at
    return [*batches, order[first:]] if len(order) else []
