"""Batches that a thread reads while others are in use."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


@dataclass
class Waiting:
    """How long scoring stood still because the next batch was not there yet.

    Attributes:
        seconds: their sum over all batches so far.
    """

    seconds: float = 0.0


def read_ahead(
    read: Callable[[int], Item], numbers: Iterable[int], ahead: int, waiting: Waiting | None = None
) -> Iterator[Item]:
    """`read` of each number in turn, done in a thread that is up to `ahead` batches further.

    An error of `read` is raised here, when its batch is asked for. The thread ends with the iteration, and
    when the iterator is closed or dropped.
    """
    todo = iter(numbers)
    reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="knots-batches")
    try:
        pending = deque(reader.submit(read, number) for number in islice(todo, ahead))
        while True:
            asked = time.perf_counter()
            pending.extend(reader.submit(read, number) for number in islice(todo, 1))
            if not pending:
                return
            batch = pending.popleft().result()
            if waiting is not None:
                waiting.seconds += time.perf_counter() - asked
            yield batch
            # Or a batch would be kept while the next one is waited for.
            del batch
    finally:
        reader.shutdown(cancel_futures=True)
