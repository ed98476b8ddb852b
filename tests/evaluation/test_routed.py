"""Each image by the adapter of the task that it looks most like, against loops over single images."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from knots.adapters import Adapter
from knots.errors import KnotsError
from knots.evaluation import Finetuned, Merged, Multitask, Router, Single, summarize
from knots.evaluation.routing import RoutedCut
from knots.models.attach import attach
from knots.models.clip import Clip
from knots.pipelines.trainers import quiet_trainer
from knots.suites import data
from knots.suites.data import ImageArrays
from knots.suites.sources import drawn
from tests.evaluation.conftest import Score
from tests.miniatures import IMAGE_SIZE, tiny_arrays, tiny_suite

SIZES = {"numbers": 21, "patterns": 34, "digits": 13}
SUITE = replace(
    tiny_suite(),
    tasks=tuple(replace(task, sizes={**task.sizes, "validation": 9}) for task in tiny_suite().tasks),
)


def tinted(task, split: str) -> ImageArrays:
    """Noise, of which each task has more of one colour, so that tasks can be told apart, but not always."""
    seed = sum(map(ord, task.name + split))
    images, labels = tiny_arrays(task.size(split), len(task.classes), seed)
    place = list(SIZES).index(task.name)
    images[..., place] = 110 + images[..., place] // 2
    return ImageArrays(images, labels)


@pytest.fixture(autouse=True)
def source(score: Score, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = drawn(tinted, version=1, options=("seed",), size=IMAGE_SIZE)
    monkeypatch.setattr(data, "SOURCES", {"noise": kind})


def slow_routes(clip: Clip) -> dict[str, list[int]]:
    """The task that each image of each task looks like, image by image."""

    def direction(image: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            return F.normalize(clip(torch.from_numpy(image[None])).double(), dim=1)[0]

    rows = []
    for task in SUITE.tasks:
        mean = torch.stack([direction(image) for image in tinted(task, "validation").images]).mean(dim=0)
        rows.append(mean / mean.norm())
    return {
        task.name: [
            int(torch.stack([direction(image) @ row for row in rows]).argmax())
            for image in tinted(task, "test").images
        ]
        for task in SUITE.tasks
    }


@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_every_image_is_scored_by_the_adapter_of_its_nearest_prototype(
    clip: Clip, score: Score, adapters: Sequence[Adapter], batch_size: int
):
    routes = slow_routes(clip)
    result = score(Router(adapters), suite=SUITE, batch_size=batch_size)
    alone = [score(Single(adapter), suite=SUITE).predictions for adapter in adapters]
    expected = pd.concat(
        alone[route][alone[route].task == task].iloc[[item]]
        for task, found in routes.items()
        for item, route in enumerate(found)
    )
    pd.testing.assert_frame_equal(result.predictions, expected.reset_index(drop=True))
    assert result.routed.tolist() == [[found.count(place) for place in range(3)] for found in routes.values()]
    # Some are sent astray, and some are not, or the test would show nothing.
    assert 0 < np.trace(result.routed) < result.routed.sum()


def test_the_shares_are_told(score: Score, adapters: Sequence[Adapter]):
    result = score(Router(adapters), suite=SUITE)
    found = summarize(result, model="tiny", merge={"kind": "router"}, seed=0)["router"]
    for place, (task, share) in enumerate(found["own"].items()):
        assert share == pytest.approx(100 * result.routed[place, place] / SIZES[task])
        assert sum(found["routed"][place]) == pytest.approx(100)
        assert f"{task} {share:.1f} %" in result.notes[-1]
    assert result.notes[-1].startswith("routed to their own task's adapter: numbers ")
    other = score(Single(adapters[0]), suite=SUITE)
    assert other.routed is None
    assert summarize(other, model="tiny", merge={"kind": "single"}, seed=0)["router"] is None


def test_where_no_image_goes_astray_it_is_the_oracle(
    score: Score, adapters: Sequence[Adapter], monkeypatch: pytest.MonkeyPatch
):
    order = iter(range(3))
    monkeypatch.setattr(
        "knots.evaluation.routed.nearest", lambda _, arrays, *__: np.full(len(arrays), next(order))
    )
    routed, oracle = score(Router(adapters), suite=SUITE), score(Finetuned(adapters), suite=SUITE)
    pd.testing.assert_frame_equal(routed.predictions, oracle.predictions)


def test_adapters_change_as_rarely_as_can_be(
    score: Score, adapters: Sequence[Adapter], monkeypatch: pytest.MonkeyPatch
):
    put_on: list[str] = []

    def noted(tower, adapter):
        put_on.append(adapter.name)
        return attach(tower, adapter)

    monkeypatch.setattr("knots.evaluation.module.attach", noted)
    score(Router(adapters), suite=SUITE, batch_size=2)
    assert len(put_on) <= 9


@pytest.mark.parametrize("predictor", [Single, Multitask])
def test_one_adapter_for_all_is_scored_as_a_merge_would_be(
    score: Score, adapters: Sequence[Adapter], predictor: type[Single]
):
    result = score(predictor(adapters[1]))
    pd.testing.assert_frame_equal(result.predictions, score(Merged(adapters[1])).predictions)
    assert (result.kind, result.adapter) == (predictor.kind, None)


@given(routes=st.lists(st.integers(0, 4), max_size=40), size=st.integers(1, 9))
def test_a_routed_cut_has_every_item_once_and_one_route_a_batch(routes: list[int], size: int):
    count = len(routes)
    arrays = ImageArrays(np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1), np.arange(count) % 3)
    cut = RoutedCut(arrays, 2, np.array(routes, dtype=np.int64), size)
    batches = [cut.read(number) for number in range(len(cut))]
    assert sorted(item for batch in batches for item in batch.items.tolist()) == list(range(count))
    for batch in batches:
        assert {routes[item] for item in batch.items.tolist()} == {batch.route}
        assert batch.images.flatten().tolist() == batch.items.tolist()
        assert batch.labels.tolist() == [item % 3 for item in batch.items.tolist()]
        assert (batch.task, len(batch.items) <= size) == (2, True)
    assert len(cut.read(len(cut)).items) == 0


def test_tasks_need_images_to_be_recognized_by(score: Score, adapters: Sequence[Adapter]):
    empty = replace(SUITE.tasks[1], sizes={"test": 3, "validation": 0})
    with pytest.raises(KnotsError, match="task 'patterns' has no validation images"):
        score(Router(adapters), suite=replace(SUITE, tasks=(SUITE.tasks[0], empty, SUITE.tasks[2])))
    with pytest.raises(KnotsError, match="unknown split of task 'numbers': 'validation'"):
        score(Router(adapters))


def test_the_base_is_the_same_afterwards(clip: Clip, score: Score, adapters: Sequence[Adapter]):
    before = [parameter.clone() for parameter in clip.parameters()]
    score(Router(adapters), suite=SUITE)
    assert all(torch.equal(a, b) for a, b in zip(before, clip.parameters(), strict=True))


@pytest.mark.gpu
def test_the_gpu_gives_the_cpus_routes(score: Score, adapters: Sequence[Adapter]):
    on_gpu = score(Router(adapters), suite=SUITE, trainer=quiet_trainer({"accelerator": "gpu", "devices": 1}))
    assert np.abs(on_gpu.routed - score(Router(adapters), suite=SUITE).routed).sum() <= 4
