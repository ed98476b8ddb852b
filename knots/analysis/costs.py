"""What a merge costs: time, memory while it is made, and the size of what it leaves."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

from knots.adapters import Adapter
from knots.updates import LowRank, Update

SHORT = 2.0
"""Seconds up to which a merge is timed several times."""

REPETITIONS = 5

MEMORY_EVENT = "[memory]"


@dataclass(frozen=True)
class Cost:
    """What one merge costs.

    Attributes:
        seconds: from adapters to merged matrices or factors; the median of five where one takes up to 2 s.
        peak_bytes: the most memory held at once on the device, above what was held before it.
        rank: the largest over modules: columns of the factors, or min(O, I) of a dense update.
        parameters: numbers in the merged adapter: R * (O + I) of a low-rank update, O * I of a dense one.
    """

    seconds: float
    peak_bytes: int
    rank: int
    parameters: int


def measure_cost(
    adapters: Sequence[Adapter], merge: Callable[[Sequence[Adapter]], Adapter], device: torch.device | str
) -> Cost:
    """Merge some times, and once more to look at the memory.

    A dense merge that is computed whenever it is read is read once, module by module, so that what it costs
    is in the numbers as well.

    Args:
        adapters: T adapters; moving them to the device counts.
        merge: merges them on `device`.
        device: where. The peak is what its allocator says on CUDA; elsewhere what torch allocates on the CPU
            by its profiler, which makes a merge slower: it is not the one that is timed.
    """
    device = torch.device(device)

    def make() -> None:
        for update in merge(adapters).updates.values():
            update.held()

    seconds = [_timed(make, device)]
    while len(seconds) < REPETITIONS and seconds[0] <= SHORT:
        seconds.append(_timed(make, device))
    peak = _peak_on_cuda(make, device) if device.type == "cuda" else peak_on_cpu(make)
    updates = merge(adapters).updates.values()
    return Cost(
        seconds=statistics.median(seconds),
        peak_bytes=peak,
        rank=max((update.rank for update in updates), default=0),
        parameters=sum(map(parameters, updates)),
    )


def parameters(update: Update) -> int:
    """Numbers that hold an update: R * (O + I) in factors, O * I in a matrix."""
    rows, columns = update.shape
    return update.rank * (rows + columns) if isinstance(update, LowRank) else rows * columns


def _timed(make: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    make()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_on_cuda(make: Callable[[], None], device: torch.device) -> int:
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    make()
    _wait(device)
    return int(torch.cuda.max_memory_allocated(device) - before)


def peak_on_cpu(make: Callable[[], object]) -> int:
    """The most bytes that torch allocates during a call and holds at once, on the CPU.

    What was there before and is let go of meanwhile does not count against it.
    """
    gc.collect()  # else garbage that is found meanwhile makes the profiler's library complain
    # The profiler's library prints what it looks for on standard error; read when it is first used.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as watched:
        make()
    results = watched.profiler.kineto_results if watched.profiler is not None else None
    events = [] if results is None else [e for e in results.events() if e.name() == MEMORY_EVENT]
    steps = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return int(max([0, *accumulate(steps)]))
