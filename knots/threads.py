"""The same work on many modules, on several processor cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch computes with so many threads within; with one, none is left behind that spins as it waits."""
    available = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(available)


def spread(
    function: Callable[[Item], Result], items: Iterable[Item], most: int | None = None
) -> list[Result]:
    """What a function gives for each item, in their order, over as many threads as torch computes with.

    Each call has one thread: small decompositions and passes over some megabytes gain little from several,
    and their bits do not depend on how many there are. Gradients and inference mode are those of the caller.

    Args:
        function: safe to call from several threads at a time.
        items: worked on in any order.
        most: threads at the same time; 1 or fewer calls the function here, with all of torch's threads.

    Raises:
        Exception: what the first of the failing calls raised; those that have not begun are left out.
    """
    work = list(items)
    available = torch.get_num_threads()
    threads = min(available, len(work), available if most is None else most)
    if threads < 2:
        return [function(item) for item in work]
    modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def call(item: Item) -> Result:
        with torch.inference_mode(modes[0]), torch.set_grad_enabled(modes[1]):
            return function(item)

    pool = ThreadPoolExecutor(threads, "spread", initializer=torch.set_num_threads, initargs=(1,))
    try:
        return list(pool.map(call, work))
    finally:
        pool.shutdown(cancel_futures=True)
        # A thread's own setting is in part one of the whole process.
        torch.set_num_threads(available)
