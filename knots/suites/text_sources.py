"""Kinds of sources of sentences: where the pairs of a task can come from.

To add one: a function that opens a split, what its items depend on, and a row in `TEXT_SOURCES`.

Shapes: N items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from knots.suites import mini_nli
from knots.suites.pairs import open_pairs, pairs_identity
from knots.suites.tasks import TextTask
from knots.suites.texts import TextItems

Pairs = tuple[Sequence[str], Sequence[str], npt.NDArray[np.int64]]
"""The first and the second sentences of N items, and their labels int64 [N]."""


@dataclass(frozen=True)
class TextSource:
    """A kind of source of sentences.

    Attributes:
        open: (task, split, root of the caches) -> the items, while the block runs.
        identity: (task, split, root of the caches) -> what determines the items, as plain values.
        options: the keys that `task.source` may have beside `kind`.
    """

    open: Callable[[TextTask, str, Path], AbstractContextManager[TextItems]]
    identity: Callable[[TextTask, str, Path], Mapping[str, Any]]
    options: tuple[str, ...]


def written(
    write: Callable[[TextTask, str], Pairs], version: Callable[[], int], options: tuple[str, ...]
) -> TextSource:
    """A source whose sentences are made in memory, all at once.

    Args:
        write: (task, split) -> the pairs.
        version: gives a number that changes whenever `write` gives other pairs for the same task.
        options: the keys of `task.source`.
    """

    @contextmanager
    def open_(task: TextTask, split: str, _: Path) -> Iterator[TextItems]:
        first, second, labels = write(task, split)
        assert len(first) == len(second) == len(labels)

        def read(items: Sequence[int]) -> tuple[list[str], list[str]]:
            return [first[item] for item in items], [second[item] for item in items]

        yield TextItems(labels, read)

    def identity(task: TextTask, split: str, _: Path) -> Mapping[str, Any]:
        del split
        return {**task.source, "version": version()}

    return TextSource(open_, identity, options)


def _write_mini_nli(task: TextTask, split: str) -> Pairs:
    seed = int(task.source.get("seed", 0))
    pairs: Pairs = mini_nli.draw_pairs(task.name, split, task.size(split), seed)
    return pairs


TEXT_SOURCES: Mapping[str, TextSource] = {
    "mini_nli": written(_write_mini_nli, lambda: mini_nli.VERSION, ("seed",)),
    "pairs": TextSource(
        open_pairs,
        pairs_identity,
        options=(
            *("path", "revision", "config", "first", "second", "label", "labels", "splits", "validation"),
        ),
    ),
}
"""Every kind of source of sentences."""
