"""What differs between the families of models: how they are loaded and read for, and their lessons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knots.errors import KnotsError
from knots.finetuning.joint import JointLesson
from knots.finetuning.lessons import Lesson
from knots.finetuning.pairs import PairLesson, base_dtype
from knots.finetuning.pictures import PictureLesson
from knots.finetuning.plan import FinetuningPlan, LanguagePlan, VisionPlan
from knots.models.bases import find_base
from knots.models.classifier import Classifier
from knots.models.clip import Clip
from knots.models.families import Model, Spec, family_of
from knots.suites.data import DataOptions, Reading
from knots.suites.tasks import ImageTask, Suite, Task, TextTask
from knots.suites.texts import TextReading


@dataclass(frozen=True)
class Subject:
    """A base to train, and how its items are read.

    Attributes:
        model: the base, on the CPU.
        reading: from a data set to what the model takes.
    """

    model: Model
    reading: Reading | TextReading


def load_subject(spec: Spec, plan: FinetuningPlan, options: DataOptions) -> Subject:
    """Load a base in the precision that the plan wants.

    Raises:
        KnotsError: the base cannot be had or read.
    """
    family, base = family_of(spec), find_base(spec.base, spec.revision)
    return Subject(family.load(spec, base, base_dtype(plan)), family.reading(base, options))


def check_modality(spec: Spec, suite: Suite, plan: FinetuningPlan) -> None:
    """Check that model, suite and recipe belong together, before anything is loaded.

    Raises:
        KnotsError: one is of another modality than the model.
    """
    modality = family_of(spec).modality
    if suite.modality != modality:
        raise KnotsError(
            f"suite {suite.name!r} is of {suite.modality}, but model {spec.name!r} takes {modality}"
        )
    if plan.modality != modality:
        raise KnotsError(
            f"the recipe is one for {plan.modality}, but model {spec.name!r} takes {modality}; choose "
            "another with finetune=..."
        )


def make_lesson(
    model: Model,
    task: Task,
    data: Mapping[str, Any],
    plan: FinetuningPlan,
    cache_dir: Path | None,
) -> Lesson:
    """The lesson of a task's modality.

    Raises:
        KnotsError: model, task and plan are not all of one modality.
    """
    if isinstance(model, Clip) and isinstance(task, ImageTask) and isinstance(plan, VisionPlan):
        return PictureLesson(model, task, data, plan, cache_dir)
    if isinstance(model, Classifier) and isinstance(task, TextTask) and isinstance(plan, LanguagePlan):
        return PairLesson(model, task, data, plan)
    raise KnotsError(
        f"task {task.name!r}, a {type(model).__name__} and a recipe for {plan.modality} do not go together"
    )


def make_joint_lesson(
    model: Model,
    tasks: Sequence[Task],
    data: Mapping[str, Mapping[str, Any]],
    plan: FinetuningPlan,
    cache_dir: Path | None,
) -> JointLesson:
    """The lesson of several tasks at once.

    Args:
        model: the base.
        tasks: what is learnt.
        data: task -> split -> items.
        plan: how.
        cache_dir: where class features are kept; None keeps none.

    Raises:
        KnotsError: as `make_lesson`; or there is no task, or tasks of sentences differ in their numbers of
            classes: they learn one head together, each with its own absent classes.
    """
    if not tasks:
        raise KnotsError("multitask=true: at least one task is needed")
    if isinstance(model, Classifier):
        _check_one_head(tasks)
    lessons = {task.name: make_lesson(model, task, data[task.name], plan, cache_dir) for task in tasks}
    return JointLesson(lessons, plan)


def _check_one_head(tasks: Sequence[Task]) -> None:
    counts = {task.name: len(task.classes) for task in tasks}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise KnotsError(
            f"multitask=true: the tasks learn one head, but differ in their numbers of classes: {told}"
        )
