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

    def padded(self, items: Sequence[int] | npt.NDArray[np.int64], pad: int) -> tuple[Tensor, Tensor]:
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
