"""Seeds stay inside their block, folders appear whole, batches follow from their seed."""

import threading
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import pytest
import torch

from knots.errors import KnotsError
from knots.training import (
    Batches,
    ReadAhead,
    Slices,
    cosine_schedule,
    parse_options,
    seeded,
)


@dataclass(frozen=True)
class Plan:
    steps: int
    rate: float
    names: tuple[str, ...] = ()


@pytest.fixture
def pictures():
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    return images, np.arange(20)


def test_seeded_decides_random_numbers_and_leaves_the_generator_as_it_was():
    before = torch.get_rng_state()
    draws = []
    for seed in (1, 1, 2):
        with seeded(seed):
            draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_schedule_warms_up_and_ends_at_zero():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = cosine_schedule(optimizer, warmup=10, steps=50)["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(51):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[50] == pytest.approx(0.0, abs=1e-12)


def test_batches_follow_from_their_seed(pictures):
    def first(seed):
        return list(islice(Batches(*pictures, batch_size=6, seed=seed, shift=2), 5))

    for (images, labels), (again, same) in zip(first(1), first(1), strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, same)
    assert any(not torch.equal(a[1], b[1]) for a, b in zip(first(1), first(2), strict=True))


def test_an_epoch_of_batches_shows_every_picture_once_as_it_is(pictures):
    images, labels = pictures
    shown = list(islice(Batches(*pictures, batch_size=5, seed=0, shift=0), 4))
    assert sorted(torch.cat([batch[1] for batch in shown]).tolist()) == labels.tolist()
    for some, said in shown:
        np.testing.assert_array_equal(some.numpy(), images[said.numpy()])


def test_a_shift_moves_pictures_and_keeps_their_shape(pictures):
    images, _ = pictures
    some, said = next(iter(Batches(*pictures, batch_size=20, seed=3, shift=2)))
    assert some.shape == (20, 8, 8, 3)
    assert some.dtype == torch.uint8
    inner = {image[3:5, 3:5].tobytes() for image in some.numpy()}
    windows = {
        images[n][y : y + 2, x : x + 2].tobytes() for n in range(20) for y in range(7) for x in range(7)
    }
    assert inner <= windows
    assert sorted(said.tolist()) == list(range(20))


def test_a_batch_is_never_larger_than_the_data(pictures):
    assert len(next(iter(Batches(*pictures, batch_size=64, seed=0, shift=0)))[1]) == 20


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("start", [0, 1, 3, 4, 11])
def test_batches_start_anywhere_and_read_nothing_before(pictures, start, shift):
    images, labels = pictures
    read = []

    class Watched:
        def __getitem__(self, chosen):
            read.append(len(chosen))
            return images[chosen]

    whole = islice(Batches(images, labels, batch_size=6, seed=1, shift=shift), start, start + 4)
    rest = islice(Batches(Watched(), labels, batch_size=6, seed=1, shift=shift, start=start), 4)
    for (some, said), (again, same) in zip(whole, rest, strict=True):
        assert torch.equal(some, again)
        assert torch.equal(said, same)
    assert read == [6] * 4


def test_slices_are_the_split_in_order(pictures):
    images, labels = pictures
    cut = Slices(images, labels, batch_size=6)
    assert [len(cut[n][1]) for n in range(len(cut))] == [6, 6, 6, 2]
    np.testing.assert_array_equal(torch.cat([cut[n][0] for n in range(len(cut))]).numpy(), images)
    np.testing.assert_array_equal(torch.cat([cut[n][1] for n in range(len(cut))]).numpy(), labels)


def test_slices_own_what_they_give(pictures):
    images, labels = pictures
    images.flags.writeable = False
    Slices(images, labels, batch_size=6)[0][0].zero_()
    assert images[:6].any()


@pytest.mark.parametrize("length", [0, 1, 3, 9])
def test_reading_ahead_changes_nothing(length):
    batches = [(torch.tensor(n), torch.tensor(-n)) for n in range(length)]
    assert list(ReadAhead(batches, ahead=3)) == batches


def test_reading_ahead_goes_on_in_another_thread_but_not_for_ever():
    threads, numbers = set(), []

    def batches():
        for number in count():
            threads.add(threading.get_ident())
            numbers.append(number)
            yield torch.tensor(number), torch.tensor(number)

    assert [int(batch[0]) for batch in islice(ReadAhead(batches(), ahead=3), 5)] == list(range(5))
    assert threading.get_ident() not in threads
    assert max(numbers) <= 5 + 3


def test_a_failure_while_reading_ahead_is_raised():
    def batches():
        yield torch.tensor(0), torch.tensor(0)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(ReadAhead(batches()))


def test_options_become_a_plan():
    assert parse_options(Plan, {"steps": 3, "rate": 1, "names": ("a",)}, "plan") == Plan(3, 1, ("a",))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"step": 3, "rate": 0.1, "names": ()}, "unknown key of 'plan': 'step'; did you mean 'steps'"),
        ({"steps": 3, "names": ()}, "plan lacks 'rate'"),
        ({"steps": 2.5, "rate": 0.1, "names": ()}, "plan.steps must be a whole number .* got 2.5"),
        ({"steps": True, "rate": 0.1, "names": ()}, "plan.steps"),
        ({"steps": 3, "rate": -1, "names": ()}, "plan.rate must be .* got -1"),
        ({"steps": 3, "rate": float("nan"), "names": ()}, "plan.rate"),
    ],
)
def test_options_that_do_not_fit_are_named(config, message):
    with pytest.raises(KnotsError, match=message):
        parse_options(Plan, config, "plan")
