"""Reading a suite, and the union of its tasks' classes."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from knots.errors import KnotsError
from knots.suites.tasks import Suite, parse_suite
from tests.miniatures import tiny_suite

TASK = {
    "classes": ["one", "two"],
    "templates": ["a {}"],
    "sizes": {"test": 4},
    "source": {"kind": "noise", "seed": 0},
}
SUITE = {"name": "s", "modality": "vision", "tasks": {"first": TASK, "second": dict(TASK)}}


def test_order_of_tasks_is_kept():
    suite = tiny_suite()
    assert suite.task_names == ("numbers", "patterns", "digits")
    assert suite.tasks[0].size("test") == 21


def test_a_class_is_shared_where_name_and_templates_are_equal():
    labels = tiny_suite().joint()
    assert labels.names == ("zero", "one", "two", "stripes", "dots", "red", "two")
    assert [mapping.tolist() for mapping in labels.local_to_joint] == [[0, 1, 2], [3, 4, 5, 6], [1, 0, 2]]
    assert labels.name_groups[2] == labels.name_groups[6]
    assert labels.name_groups.unique().numel() == 6
    assert labels.belongs.tolist()[:4] == [[True, False, True]] * 3 + [[False, True, False]]


def test_template_order_is_part_of_a_class():
    config = deepcopy(SUITE)
    config["tasks"]["first"]["templates"] = ["a {}", "the {}"]
    config["tasks"]["second"]["templates"] = ["the {}", "a {}"]
    assert len(parse_suite(config).joint()) == 4


def test_joint_labels_are_the_official_ones(shared: Path):
    official = json.loads((shared / "reference" / "joint_labels.json").read_text())
    templates = json.loads((shared / "reference" / "templates.json").read_text())
    suite = parse_suite(
        {
            "name": "vision8",
            "modality": "vision",
            "tasks": {
                name: {**TASK, "classes": classes, "templates": templates[name]}
                for name, classes in official["class_names"].items()
            },
        }
    )
    labels = suite.joint()
    assert sum(len(task.classes) for task in suite.tasks) == 758
    assert len(labels) == 748
    assert list(labels.names) == official["union"]
    for task, mapping in zip(suite.tasks, labels.local_to_joint, strict=True):
        assert mapping.tolist() == official["local_to_joint"][task.name]
    repeated = {name for name in labels.names if labels.names.count(name) > 1}
    assert len(repeated) == 11
    assert labels.name_groups.unique().numel() == len(set(labels.names))


def test_moving_labels_keeps_them():
    labels = tiny_suite().joint()
    moved = labels.to("cpu")
    assert moved.names == labels.names
    assert torch.equal(moved.belongs, labels.belongs)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("modality",), "audio", "unknown modality .* 'audio'.*vision"),
        (("taskz",), {}, "unknown key of suite 's': 'taskz'; did you mean 'tasks'"),
        (("tasks",), {}, "must map task names to tasks"),
        (("tasks", "first"), "digits", "task 'first' must be a mapping"),
        (("tasks", "first", "clases"), [], "unknown key of task 'first': 'clases'; did you mean 'classes'"),
        (("tasks", "first", "classes"), "one", "`classes` must be a list"),
        (("tasks", "first", "classes"), [1, 2], "`classes` holds 1, which is no text; put it in quotes"),
        (("tasks", "first", "classes"), ["a", "a"], "holds 'a' more than once"),
        (("tasks", "first", "templates"), ["a photo"], r"template 'a photo' must hold \{\} once"),
        (("tasks", "first", "sizes"), {"tset": 4}, "unknown split .* 'tset'; did you mean 'test'"),
        (("tasks", "first", "sizes"), {"test": -1}, "must be a whole number >= 0, got -1"),
        (("tasks", "first", "source"), {"seed": 1}, "must be a mapping with a `kind`"),
        (("tasks", "first", "name"), "second", "calls itself 'second'"),
    ],
)
def test_mistakes_are_named(path: tuple[str, ...], value: object, message: str):
    config = deepcopy(SUITE)
    place = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(KnotsError, match=message):
        parse_suite(config)


def test_absent_keys_are_named():
    config = deepcopy(SUITE)
    del config["tasks"]["second"]["templates"]
    with pytest.raises(KnotsError, match="task 'second' lacks 'templates'"):
        parse_suite(config)


def test_absent_split_is_named():
    suite: Suite = tiny_suite()
    with pytest.raises(KnotsError, match=r"unknown split of task 'numbers'.*'validation'.*test"):
        suite.tasks[0].size("validation")


def test_some_tasks_keep_their_order_and_the_name_says_which():
    suite = tiny_suite()
    some = suite.subset(["digits", "numbers"])
    assert some.task_names == ("numbers", "digits")
    assert some.name == "tiny[numbers,digits]"
    assert len(some.joint()) == 3
    assert suite.subset(["digits", "numbers", "patterns"]) is suite
    assert some.subset(["digits"]) == suite.subset(["digits"])
    assert some.subset(["digits", "numbers"]) is some
    with pytest.raises(KnotsError, match=r"unknown task of suite 'tiny': 'digit'; did you mean 'digits'"):
        suite.subset(["digit"])
    with pytest.raises(KnotsError, match="no tasks of suite 'tiny' are named"):
        suite.subset([])
