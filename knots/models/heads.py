"""Class heads of CLIP: every class as the mean of its prompts' text features.

The text tower is never merged, so heads belong to a base and a task. They are cached by content: the text
tower's weights, the class names and the prompts.

Shapes: C classes, P prompts a class, D size of the feature space, T tasks.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from knots.files import write_whole
from knots.models.clip import Clip
from knots.models.text import Encoder
from knots.suites.tasks import ImageTask, JointLabels, Suite

log = logging.getLogger(__name__)

VERSION = 1
"""Raised whenever the same text tower and prompts give other features than before."""


@dataclass(frozen=True, eq=False)
class Heads:
    """The class features of a suite.

    Attributes:
        tasks: one [C_t, D] a task, rows of unit length in the order of the task's labels.
        joint: [C, D] over the union of the classes, in the order of `labels`.
        labels: the union itself.
    """

    tasks: tuple[Tensor, ...]
    joint: Tensor
    labels: JointLabels

    def to(self, device: torch.device | str) -> Heads:
        """The same heads on `device`."""
        tasks = tuple(features.to(device) for features in self.tasks)
        return Heads(tasks, self.joint.to(device), self.labels.to(device))


def class_features(encode: Encoder, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Embed classes by their prompts: mean of unit text features over templates, made unit again.

    Args:
        encode: the text tower, as `Clip.text_encoder` gives it.
        classes: C class names.
        templates: P prompts with `{}` for the class name.

    Returns:
        [C, D] in float32, with an L2 norm of 1.
    """
    prompts = [template.replace("{}", name) for name in classes for template in templates]
    features = encode(prompts).float()
    return F.normalize(features.view(len(classes), len(templates), -1).mean(dim=1), dim=-1)


def task_features(
    clip: Clip,
    tasks: Sequence[ImageTask],
    cache_dir: Path | None = None,
    device: torch.device | str | None = None,
) -> list[Tensor]:
    """The class features of several tasks, on the CPU; the text tower is only loaded if some are not cached.

    Args:
        clip: the base.
        tasks: each gives [C_t, D].
        cache_dir: root of the caches; None keeps nothing.
        device: where a text tower of open_clip is put; by default where the base stands.

    Raises:
        KnotsError: the text tower cannot be had.
    """
    if cache_dir is None:
        with clip.text_encoder(device) as encode:
            return [class_features(encode, task.classes, task.templates).cpu() for task in tasks]
    files = feature_files(clip, tasks, cache_dir)
    found = [read_features(file) for file in files]
    if all(features is not None for features in found):
        return [features for features in found if features is not None]
    with clip.text_encoder(device) as encode:
        for place, (task, file) in enumerate(zip(tasks, files, strict=True)):
            features = found[place]
            if features is None:
                log.info("embedding the %d classes of %s", len(task.classes), task.name)
                features = class_features(encode, task.classes, task.templates).cpu()
                write_whole(file, save({"weight": features.contiguous()}))
                found[place] = features
    return [features for features in found if features is not None]


def feature_files(clip: Clip, tasks: Sequence[ImageTask], cache_dir: Path) -> list[Path]:
    """Where the class features of several tasks are kept, be they there or not.

    Raises:
        KnotsError: it is not known which text tower embeds them, as its weights cannot be had.
    """
    tower = clip.text_identity
    return [cache_dir / "heads" / f"{_key(tower, task)}.safetensors" for task in tasks]


def _key(tower: Mapping[str, str], task: ImageTask) -> str:
    content = [VERSION, dict(tower), task.classes, task.templates]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{task.name}-{digest[:16]}"


def read_features(file: Path) -> Tensor | None:
    """Cached features [C, D], or None where they are absent or damaged."""
    try:
        return load_file(file)["weight"]
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError) as error:
        log.warning("the cached heads in %s are damaged (%s) and are made again", file, error)
        return None


def build_heads(
    clip: Clip, suite: Suite, cache_dir: Path | None = None, device: torch.device | str | None = None
) -> Heads:
    """Class features of every task, and of their union with each class's own templates: `task_features`."""
    labels = suite.joint()
    tasks = tuple(task_features(clip, suite.image_tasks, cache_dir, device))
    # A shared class has the same name and templates in each of its tasks, so any of them will do.
    joint = tasks[0].new_empty(len(labels), tasks[0].shape[1])
    for features, mapping in zip(tasks, labels.local_to_joint, strict=True):
        joint[mapping] = features
    return Heads(tasks, joint, labels)
