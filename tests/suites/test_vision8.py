"""The paper's eight vision tasks, as their configurations compose: labels, prompts, splits, references."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from experiments._cli import CONF, plain
from knots.suites import Suite, parse_suite
from knots.suites.splits import held_out, split_in_data

ORDER = ("stanford_cars", "dtd", "eurosat", "gtsrb", "mnist", "resisc45", "sun397", "svhn")
CLASSES = (196, 47, 10, 43, 10, 45, 397, 10)
TEMPLATES = (8, 8, 3, 3, 1, 18, 2, 1)
TESTED = (6433, 1880, 2700, 10104, 8000, 6300, 15880, 20826)
"""The items behind the published accuracies."""

# The splits as they are published, before any validation is taken out of them: train, test.
PUBLISHED_SPLITS = {
    "stanford_cars": (8144, 8041),
    "dtd": (3760, 1880),  # its own train and validation are one split in the hub's copy
    "eurosat": (21600, 2700),
    "gtsrb": (26640, 12630),
    "mnist": (60000, 10000),
    "resisc45": (18900, 6300),
    "sun397": (19850, 19850),
    "svhn": (73257, 26032),
}
# gstoica27/KnOTS@baa35e8, eval_scripts/8vision_pertask.py
REFERENCES = {
    "vit_b_32": (74.0, 58.3, 99.0, 92.7, 99.3, 88.4, 64.5, 96.2),
    "vit_l_14": (99.77, 70.05, 98.59, 97.2, 99.53, 95.7, 79.6, 97.72),
}


@pytest.fixture(scope="module")
def suite() -> Suite:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse_suite(plain(compose("merge", overrides=["logger=none", "suite=vision8"]))["suite"])


def test_the_papers_tasks_in_the_papers_order(suite: Suite):
    assert suite.task_names == ORDER
    assert tuple(len(task.classes) for task in suite.tasks) == CLASSES
    assert tuple(len(task.templates) for task in suite.tasks) == TEMPLATES


def test_only_the_ten_digits_are_shared(suite: Suite):
    labels = suite.joint()
    assert sum(len(task.classes) for task in suite.tasks) == 758
    assert len(labels) == 748
    shared = labels.belongs.sum(dim=1) == 2
    assert [labels.names[number] for number in shared.nonzero().flatten()] == list("0123456789")
    assert labels.belongs.sum() == 758
    owners = labels.belongs[shared].nonzero()[:, 1].unique().tolist()
    assert [ORDER[owner] for owner in owners] == ["mnist", "svhn"]
    # Names that repeat stay apart, for their prompts differ.
    assert len({name for name in labels.names if labels.names.count(name) > 1}) == 11


def test_labels_and_prompts_are_the_official_ones(suite: Suite, shared: Path):
    official = json.loads((shared / "reference" / "joint_labels.json").read_text())
    templates = json.loads((shared / "reference" / "templates.json").read_text())
    labels = suite.joint()
    assert list(labels.names) == official["union"]
    for task, mapping in zip(suite.tasks, labels.local_to_joint, strict=True):
        assert list(task.classes) == official["class_names"][task.name]
        assert list(task.templates) == templates[task.name]
        assert mapping.tolist() == official["local_to_joint"][task.name]


def test_what_is_tested_are_the_items_behind_the_published_numbers(suite: Suite):
    assert tuple(task.size("test") for task in suite.tasks) == TESTED
    assert sum(task.size("test") for task in suite.tasks) == 72123


def test_validation_and_what_it_is_taken_from_add_up_to_the_published_split(suite: Suite):
    for task in suite.tasks:
        part = held_out(task)
        assert part is not None
        for split, whole in zip(("train", "test"), PUBLISHED_SPLITS[task.name], strict=True):
            taken = task.size("validation") if split == part.part_of else 0
            assert task.size(split) + taken == whole
            assert taken in (0, int(whole * part.share))
        # The paper's protocol where its validation is part of the test set.
        expected = ("train", 0.1) if task.name in ("dtd", "eurosat", "resisc45") else ("test", 0.2)
        assert (part.part_of, part.share) == expected
        assert part.indices is None
        assert split_in_data(task, "validation") == split_in_data(task, part.part_of)


def test_every_task_has_the_published_reference_of_both_models(suite: Suite):
    for model, accuracies in REFERENCES.items():
        assert tuple(task.published[model] for task in suite.tasks) == accuracies


def test_every_task_is_on_the_hub(suite: Suite):
    for task in suite.tasks:
        assert task.source["kind"] == "images"
        assert task.source["path"].count("/") == 1
    assert {task.source["config"] for task in suite.tasks} == {None, "cropped_digits"}
