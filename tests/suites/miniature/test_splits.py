"""Every split is what its seed says, balanced, and shares no picture with another."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from knots.errors import KnotsError
from knots.suites.miniature import SPLITS, TASKS, draw_split

CONF = Path(__file__).resolve().parents[3] / "conf"
DRAWN = [name for name, task in TASKS.items() if task.draw is not None]

every_task = pytest.mark.parametrize("task", TASKS)


def config(task):
    return yaml.safe_load((CONF / "task" / "mini_vision8" / f"{task}.yaml").read_text())


@every_task
def test_the_same_seed_draws_the_same_pictures_and_another_seed_others(task):
    images, labels = draw_split(task, "validation", 60, seed=3)
    again, same_labels = draw_split(task, "validation", 60, seed=3)
    other, _ = draw_split(task, "validation", 60, seed=4)
    assert images.shape == (60, 32, 32, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, same_labels)
    assert not np.array_equal(images, other)


@every_task
def test_no_picture_is_in_two_splits(task):
    count = 300
    pictures = {image.tobytes() for split in SPLITS for image in draw_split(task, split, count, seed=0)[0]}
    assert len(pictures) == len(SPLITS) * count


@every_task
def test_labels_are_balanced_and_shuffled(task):
    _, labels = draw_split(task, "test", 125, seed=0)
    counts = np.bincount(labels, minlength=len(TASKS[task].classes))
    assert len(counts) == len(TASKS[task].classes)
    assert counts.max() - counts.min() <= 1
    assert not np.array_equal(labels, np.sort(labels))


@every_task
def test_pictures_of_one_class_differ(task):
    images, labels = draw_split(task, "test", 120, seed=0)
    of_one = images[labels == labels[0]]
    assert len({image.tobytes() for image in of_one}) == len(of_one)


@every_task
def test_every_picture_shows_something(task):
    images, _ = draw_split(task, "train", 300, seed=0)
    assert images.std(axis=(1, 2)).max(axis=1).min() > 2


@every_task
def test_the_yaml_agrees_with_the_drawings(task):
    assert config(task)["name"] == task
    assert tuple(config(task)["classes"]) == TASKS[task].classes
    assert config(task)["source"] == {"kind": "miniature", "seed": 0}


def test_the_suite_lists_every_task_in_order():
    defaults = yaml.safe_load((CONF / "suite" / "mini_vision8.yaml").read_text())["defaults"]
    assert [name for entry in defaults if isinstance(entry, dict) for name in entry.values()] == list(TASKS)


@pytest.mark.parametrize("task", DRAWN)
def test_drawn_test_splits_are_large_enough_to_see_a_point(task):
    assert config(task)["sizes"]["test"] >= 4000


def test_there_are_enough_distinct_labels_and_only_the_digits_share_theirs():
    names = [name for task in TASKS.values() for name in task.classes]
    assert len(set(names)) >= 60
    assert TASKS["digits"].classes == TASKS["street_numbers"].classes
    assert config("digits")["templates"] == config("street_numbers")["templates"]
    assert len(names) - len(set(names)) == len(TASKS["digits"].classes)


def test_a_split_may_be_empty():
    images, labels = draw_split("signs", "test", 0, seed=0)
    assert len(images) == len(labels) == 0


@pytest.mark.parametrize(
    ("task", "split", "seed", "message"),
    [
        ("sign", "test", 0, "did you mean 'signs'"),
        ("signs", "val", 0, "unknown split 'val'"),
        ("signs", "test", -1, "must not be negative"),
    ],
)
def test_what_does_not_exist_is_named(task, split, seed, message):
    with pytest.raises(KnotsError, match=message):
        draw_split(task, split, 10, seed)
