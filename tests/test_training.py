"""Seeds stay inside their block, folders appear whole, batches follow from their seed."""

import threading
from dataclasses import dataclass
from itertools import count, islice
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from knots.errors import KnotsError
from knots.training import (
    Batches,
    ReadAhead,
    Slices,
    TextBatches,
    TextSlices,
    cosine_schedule,
    linear_schedule,
    parse_options,
    seeded,
)
from tests.language import tiny_text_arrays


@dataclass(frozen=True)
class Plan:
    steps: int
    rate: float
    names: tuple[str, ...] = ()

    kind: ClassVar[str] = "no option"


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


def rates_of(schedule, warmup, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(optimizer, warmup, steps)["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", [cosine_schedule, linear_schedule])
def test_the_schedule_warms_up_and_ends_at_zero(schedule):
    rates = rates_of(schedule, warmup=10, steps=50)
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[50] == pytest.approx(0.0, abs=1e-12)


def test_schedules_fall_on_a_line_or_a_cosine():
    assert rates_of(linear_schedule, 10, 50)[20] == pytest.approx(0.75)
    assert rates_of(cosine_schedule, 10, 50)[20] == pytest.approx(0.5 + 0.5 * 0.5**0.5)
    np.testing.assert_allclose(np.diff(rates_of(linear_schedule, 10, 50)[10:]), -1 / 40)


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


def rows(batch):
    """Every item of a batch of texts: its own tokens and its label; the padding is checked."""
    tokens, lengths, labels = batch
    assert tokens.shape[1] == int(lengths.max())
    padding = torch.arange(tokens.shape[1]) >= lengths[:, None]
    assert bool((tokens[padding] == 99).all())
    items = zip(tokens, lengths, labels, strict=True)
    return [(tuple(row[:length].tolist()), int(label)) for row, length, label in items]


def items_of(texts):
    parts = zip(np.split(texts.tokens, texts.starts[1:-1]), texts.labels, strict=True)
    return [(tuple(part.tolist()), int(label)) for part, label in parts]


@pytest.mark.parametrize("start", [0, 1, 4, 9])
def test_batches_of_texts_follow_from_their_seed_and_start_anywhere(start):
    texts = tiny_text_arrays(20, seed=0)
    shown = [rows(batch) for batch in islice(TextBatches(texts, 99, 5, seed=1), start + 4)]
    again = [rows(batch) for batch in islice(TextBatches(texts, 99, 5, seed=1, start=start), 4)]
    assert again == shown[start:]
    assert again != [rows(batch) for batch in islice(TextBatches(texts, 99, 5, seed=2, start=start), 4)]
    if start in (0, 4):  # a pass over all of them
        assert sorted(item for batch in again for item in batch) == sorted(items_of(texts))


@given(count=st.integers(1, 40), seed=st.integers(0, 9), budget=st.integers(1, 100))
def test_slices_of_texts_show_every_item_once_within_a_budget(count, seed, budget):
    texts = tiny_text_arrays(count, seed)
    cut = TextSlices(texts, 99, budget)
    batches = [cut[number] for number in range(len(cut))]
    assert sorted(item for batch in batches for item in rows(batch)) == sorted(items_of(texts))
    assert all(batch[0].numel() <= budget or len(batch[0]) == 1 for batch in batches)
    lengths = torch.cat([batch[1] for batch in batches]).tolist()
    assert lengths == sorted(lengths)


def test_slices_of_texts_are_as_few_as_fit():
    texts = tiny_text_arrays(40, seed=0)
    for first, second in zip(TextSlices(texts, 99, 60).batches, TextSlices(texts, 99, 60).batches[1:]):  # noqa: B905
        assert (len(first) + 1) * texts.lengths[second[0]] > 60
    assert len(TextSlices(texts, 99)) == 1
    assert len(TextSlices(tiny_text_arrays(0, seed=0), 99)) == 1


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
