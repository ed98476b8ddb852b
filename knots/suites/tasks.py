"""Suites: which tasks belong to a benchmark, with their labels, prompts or masks, and split sizes.

A suite is read from a plain mapping, as a YAML file gives it; nothing here opens data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import torch
from torch import Tensor

from knots.errors import KnotsError, unknown

SPLITS = ("train", "validation", "test")
MODALITIES = ("vision", "language")

SUITE_KEYS = ("name", "modality", "tasks")
NEEDED: Mapping[str, tuple[str, ...]] = {
    "vision": ("classes", "templates", "sizes", "source"),
    "language": ("classes", "max_length", "sizes", "source"),
}
OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "vision": ("name", "published"),
    "language": ("name", "published", "absent"),
}
"""The keys of a task, by modality."""


@dataclass(frozen=True)
class Task:
    """What tasks of all modalities have.

    Attributes:
        name: the task's name, which is also what `{task}` becomes in an adapter pattern.
        classes: the class names in the order of the integer labels.
        sizes: split -> number of items; what is loaded is checked against it.
        source: where the items come from: `kind` and whatever that kind needs.
        published: model -> a published accuracy in percent of its fine-tuned model.
    """

    name: str
    classes: tuple[str, ...]
    sizes: Mapping[str, int]
    source: Mapping[str, Any]
    published: Mapping[str, float] = field(default_factory=dict)

    def size(self, split: str) -> int:
        """Number of items of a split.

        Raises:
            KnotsError: the task has no such split.
        """
        if split not in self.sizes:
            raise unknown(f"split of task {self.name!r}:", split, self.sizes)
        return self.sizes[split]


@dataclass(frozen=True)
class ImageTask(Task):
    """One image classification task.

    Attributes:
        templates: prompts in which `{}` stands for the class name.
    """

    templates: tuple[str, ...] = field(kw_only=True)


@dataclass(frozen=True)
class TextTask(Task):
    """One task on pairs of sentences, scored by a head of its own.

    Attributes:
        max_length: the most tokens of a pair; what is longer is cut.
        absent: numbers of the classes that the task does not have, though its head does: never predicted.
    """

    max_length: int = field(kw_only=True)
    absent: tuple[int, ...] = field(default=(), kw_only=True)

    @property
    def mask(self) -> Tensor:
        """Bool [C], True for the absent classes."""
        return torch.tensor([number in self.absent for number in range(len(self.classes))])


@dataclass(frozen=True, eq=False)
class JointLabels:
    """The classes of all tasks as one label set.

    Shapes: C_t classes of task t, C joint classes, T tasks, G distinct names.

    Attributes:
        names: the C class names, in order of first appearance.
        templates: for each joint class the prompts of the task that it first appeared in.
        local_to_joint: for each task an int64 tensor [C_t], from its own label to the joint one.
        belongs: bool [C, T]; True where the class is one of that task's.
        name_groups: int64 [C]; equal for classes of equal name, counted from 0 to G - 1. Classes
            may share a name and yet be apart, because their prompts differ.
    """

    names: tuple[str, ...]
    templates: tuple[tuple[str, ...], ...]
    local_to_joint: tuple[Tensor, ...]
    belongs: Tensor
    name_groups: Tensor

    def __len__(self) -> int:
        """Number of joint classes C."""
        return len(self.names)

    def to(self, device: torch.device | str) -> JointLabels:
        """The same labels with their tensors on `device`."""
        return replace(
            self,
            local_to_joint=tuple(mapping.to(device) for mapping in self.local_to_joint),
            belongs=self.belongs.to(device),
            name_groups=self.name_groups.to(device),
        )


@dataclass(frozen=True)
class Suite:
    """The tasks of one benchmark, in the order in which they are reported."""

    name: str
    modality: str
    tasks: tuple[Task, ...]

    @property
    def image_tasks(self) -> tuple[ImageTask, ...]:
        """The tasks of a suite of images.

        Raises:
            KnotsError: it is of another modality.
        """
        return tuple(task for task in self.tasks if isinstance(task, ImageTask)) or self._other("vision")

    @property
    def text_tasks(self) -> tuple[TextTask, ...]:
        """The tasks of a suite of sentences.

        Raises:
            KnotsError: it is of another modality.
        """
        return tuple(task for task in self.tasks if isinstance(task, TextTask)) or self._other("language")

    def _other(self, wanted: str) -> NoReturn:
        raise KnotsError(f"suite {self.name!r} is of {self.modality}, not of {wanted}")

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names of the tasks, in order."""
        return tuple(task.name for task in self.tasks)

    def subset(self, names: Sequence[str]) -> Suite:
        """Only some of the tasks, in the suite's order; the name says which: `vision8[mnist,svhn]`.

        Raises:
            KnotsError: the suite has no such task, or none is named.
        """
        for name in names:
            if name not in self.task_names:
                raise unknown(f"task of suite {self.name!r}:", str(name), self.task_names)
        if not names:
            raise KnotsError(f"no tasks of suite {self.name!r} are named")
        tasks = tuple(task for task in self.tasks if task.name in names)
        if len(tasks) == len(self.tasks):
            return self
        whole = self.name.partition("[")[0]  # some of some of a suite's tasks are some of the suite's
        return replace(self, name=f"{whole}[{','.join(task.name for task in tasks)}]", tasks=tasks)

    def joint(self) -> JointLabels:
        """The union of the tasks' classes, in order of first appearance.

        Two tasks share a class only where its name and the list of templates are both equal, for
        only then is it the same text to the model.

        Raises:
            KnotsError: the suite is not of images.
        """
        first_seen: dict[tuple[str, tuple[str, ...]], int] = {}
        mappings = []
        for task in self.image_tasks:
            labels = [first_seen.setdefault((name, task.templates), len(first_seen)) for name in task.classes]
            mappings.append(torch.tensor(labels, dtype=torch.int64))
        belongs = torch.zeros(len(first_seen), len(self.tasks), dtype=torch.bool)
        for position, mapping in enumerate(mappings):
            belongs[mapping, position] = True
        groups: dict[str, int] = {}
        group_ids = [groups.setdefault(name, len(groups)) for name, _ in first_seen]
        return JointLabels(
            names=tuple(name for name, _ in first_seen),
            templates=tuple(templates for _, templates in first_seen),
            local_to_joint=tuple(mappings),
            belongs=belongs,
            name_groups=torch.tensor(group_ids, dtype=torch.int64),
        )


def parse_suite(config: Mapping[str, Any]) -> Suite:
    """Read a suite from plain values.

    Args:
        config: `{name, modality, tasks: {task name: {classes, sizes, source, ...}}}`, where a task of images
            has `templates` and one of sentences `max_length` and perhaps `absent`; the order of `tasks` is
            the order of the suite.

    Raises:
        KnotsError: a key is unknown or absent, or a value is not what it should be; the message
            names the suite or the task.
    """
    where = f"suite {config.get('name', '(without a name)')!r}"
    _check_keys(where, config, SUITE_KEYS, required=SUITE_KEYS)
    if config["modality"] not in MODALITIES:
        raise unknown(f"modality of {where}:", str(config["modality"]), MODALITIES)
    if not isinstance(config["tasks"], Mapping) or not config["tasks"]:
        raise KnotsError(f"{where}: `tasks` must map task names to tasks, got {config['tasks']!r}")
    modality = str(config["modality"])
    tasks = tuple(_parse_task(str(name), task, modality) for name, task in config["tasks"].items())
    return Suite(name=str(config["name"]), modality=modality, tasks=tasks)


def _parse_task(name: str, config: Mapping[str, Any], modality: str) -> Task:
    where, known = f"task {name!r}", (*NEEDED[modality], *OPTIONAL[modality])
    if not isinstance(config, Mapping):
        raise KnotsError(f"{where} must be a mapping with {', '.join(known)}, got {config!r}")
    _check_keys(where, config, known, required=NEEDED[modality])
    if config.get("name", name) != name:
        raise KnotsError(f"{where} stands under that key but calls itself {config['name']!r}")
    source = config["source"]
    if not isinstance(source, Mapping) or "kind" not in source:
        raise KnotsError(f"{where}: `source` must be a mapping with a `kind`, got {source!r}")
    classes = _strings(where, "classes", config["classes"])
    common = (
        *(name, classes, _parse_sizes(where, config["sizes"]), dict(source)),
        _parse_published(where, config.get("published") or {}),
    )
    if modality == "vision":
        return ImageTask(*common, templates=_templates(where, config["templates"]))
    absent = _absent(where, config.get("absent"), classes)
    return TextTask(*common, max_length=_max_length(where, config["max_length"]), absent=absent)


def _templates(where: str, values: object) -> tuple[str, ...]:
    templates = _strings(where, "templates", values)
    for template in templates:
        if template.count("{}") != 1:
            raise KnotsError(f"{where}: template {template!r} must hold {{}} once, for the class name")
    return templates


def _max_length(where: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise KnotsError(f"{where}: max_length={value!r}; a whole number of tokens, 1 or more, is needed")
    return value


def _absent(where: str, values: object, classes: Sequence[str]) -> tuple[int, ...]:
    if values is None or values == []:
        return ()
    names = _strings(where, "absent", values)
    for name in names:
        if name not in classes:
            raise unknown(f"class in `absent` of {where}:", name, classes)
    if len(names) == len(classes):
        raise KnotsError(f"{where}: `absent` leaves no class")
    return tuple(classes.index(name) for name in names)


def _parse_published(where: str, published: object) -> dict[str, float]:
    if not isinstance(published, Mapping):
        raise KnotsError(f"{where}: `published` must map models to accuracies in percent, got {published!r}")
    for model, accuracy in published.items():
        if isinstance(accuracy, bool) or not isinstance(accuracy, int | float) or not 0 < accuracy <= 100:
            raise KnotsError(f"{where}: published accuracy of {model!r} must be in percent, got {accuracy!r}")
    return {str(model): float(accuracy) for model, accuracy in published.items()}


def _parse_sizes(where: str, sizes: object) -> dict[str, int]:
    if not isinstance(sizes, Mapping):
        raise KnotsError(f"{where}: `sizes` must map splits to numbers of items, got {sizes!r}")
    for split, size in sizes.items():
        if split not in SPLITS:
            raise unknown(f"split in `sizes` of {where}:", str(split), SPLITS)
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise KnotsError(f"{where}: size of split {split!r} must be a whole number >= 0, got {size!r}")
    return dict(sizes)


def _strings(where: str, key: str, values: object) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) == 0:
        raise KnotsError(f"{where}: `{key}` must be a list of texts, got {values!r}")
    for value in values:
        if not isinstance(value, str):
            # YAML reads an unquoted 7 as a number and an unquoted no as False.
            raise KnotsError(f"{where}: `{key}` holds {value!r}, which is no text; put it in quotes")
    repeated = sorted({value for value in values if list(values).count(value) > 1})
    if repeated:
        raise KnotsError(f"{where}: `{key}` holds {repeated[0]!r} more than once")
    return tuple(values)


def _check_keys(where: str, config: Mapping[str, Any], known: Sequence[str], required: Sequence[str]) -> None:
    for key in config:
        if key not in known:
            raise unknown(f"key of {where}:", str(key), known)
    absent = [key for key in required if key not in config]
    if absent:
        raise KnotsError(f"{where} lacks {', '.join(map(repr, absent))}")
