"""A thread that reads ahead: how far, in which order, how it ends, and what waiting for it costs."""

import gc
import threading
import time
from collections.abc import Callable

import pytest

from knots.prefetching import Waiting, read_ahead

AHEAD = 2


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("knots-batches")]


class Source:
    """Reads numbers as they are, notes which and where, and fails at one of them."""

    def __init__(self, broken: int | None = None, seconds: float = 0.0) -> None:
        self.broken, self.seconds = broken, seconds
        self.read: list[int] = []
        self.threads: set[str] = set()

    def __call__(self, number: int) -> int:
        self.threads.add(threading.current_thread().name)
        time.sleep(self.seconds)
        if number == self.broken:
            raise OSError(f"no number {number}")
        self.read.append(number)
        return number

    def ahead(self, count: int, ahead: int = AHEAD, waiting: Waiting | None = None):
        return read_ahead(self, range(count), ahead, waiting or Waiting())


def soon(condition: Callable[[], bool]) -> bool:
    """Whether something comes true within some seconds."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_the_next_batches_are_read_in_a_thread_and_no_more_than_asked(ahead: int):
    source = Source()
    iterator = source.ahead(9, ahead)
    assert readers() == []
    for number in range(3):
        assert next(iterator) == number
        assert soon(lambda upto=number + 1 + ahead: source.read == list(range(upto)))
        time.sleep(0.02)
        assert len(source.read) == number + 1 + ahead
    assert list(iterator) == list(range(3, 9))
    assert source.read == list(range(9))
    assert len(source.threads) == 1
    assert threading.current_thread().name not in source.threads
    assert readers() == []


@pytest.mark.parametrize("leave", ["close", "drop"])
def test_the_thread_ends_when_the_iteration_is_left(leave: str):
    source = Source()
    iterator = source.ahead(100)
    assert next(iterator) == 0
    assert len(readers()) == 1
    if leave == "close":
        iterator.close()
    else:
        del iterator
        gc.collect()
    assert readers() == []
    assert len(source.read) <= 3 + AHEAD


def test_a_failure_in_the_thread_is_raised_at_its_place_and_ends_it():
    source = Source(broken=3)
    iterator = source.ahead(10)
    assert [next(iterator) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="no number 3"):
        next(iterator)
    assert readers() == []
    assert list(iterator) == []


def test_only_the_time_spent_waiting_is_counted():
    slow, hidden = Waiting(), Waiting()
    assert len(list(Source(seconds=0.02).ahead(6, waiting=slow))) == 6
    assert slow.seconds >= 0.06
    for _ in Source(seconds=0.05).ahead(6, waiting=hidden):
        time.sleep(0.15)
    # The first one cannot be hidden; all of them would be 0.3 s.
    assert 0.05 <= hidden.seconds < 0.2
