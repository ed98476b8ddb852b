import threading

import pytest
import torch

from knots.threads import spread, torch_threads


@pytest.fixture(params=[1, 3])
def threads(request):
    """Torch computes with so many threads during a test."""
    with torch_threads(request.param):
        yield request.param


def test_results_are_in_the_order_of_the_items(threads):
    assert spread(lambda number: number * number, range(20)) == [number * number for number in range(20)]
    assert spread(lambda number: number, []) == []
    assert torch.get_num_threads() == threads


def test_every_call_has_one_thread_and_all_run_at_the_same_time(threads):
    meeting = threading.Barrier(threads, timeout=60)

    def call(_):
        meeting.wait()
        return torch.get_num_threads()

    assert spread(call, range(threads)) == [1] * threads


def test_at_most_as_many_threads_as_allowed(threads):
    seen = spread(lambda _: (threading.get_ident(), torch.get_num_threads()), range(8), most=1)
    assert set(seen) == {(threading.get_ident(), threads)}


@pytest.mark.parametrize("inference", [True, False])
def test_modes_of_the_caller_hold(threads, inference):
    with torch.inference_mode(inference):
        assert set(spread(lambda _: torch.is_inference_mode_enabled(), range(4))) == {inference}
    with torch.set_grad_enabled(not inference):
        assert set(spread(lambda _: torch.is_grad_enabled(), range(4))) == {not inference}


def test_an_error_reaches_the_caller_and_threads_are_as_before(threads):
    def call(number):
        if number == 2:
            raise ValueError("the third")
        return number

    with pytest.raises(ValueError, match="the third"):
        spread(call, range(100))
    assert torch.get_num_threads() == threads


def test_a_number_of_threads_holds_within_and_no_longer(threads):
    with torch_threads(1):
        assert torch.get_num_threads() == 1
        assert spread(lambda _: threading.get_ident(), range(3)) == [threading.get_ident()] * 3
    assert torch.get_num_threads() == threads


def test_a_number_of_threads_ends_with_an_error(threads):
    with pytest.raises(ZeroDivisionError), torch_threads(1):
        divmod(1, 0)
    assert torch.get_num_threads() == threads
