"""Class heads of CLIP: every class as the mean of its prompts' text features.

The text tower is the base's own whatever is merged, so heads belong to a base and a suite.

Shapes: C classes, P prompts a class, D size of the feature space, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from knots.models.clip import Clip
from knots.suites.tasks import JointLabels, Suite


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


def class_features(clip: Clip, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Embed classes by their prompts: mean of unit text features over templates, made unit again.

    Args:
        clip: the base; its text tower is used on the device it stands on.
        classes: C class names.
        templates: P prompts with `{}` for the class name.

    Returns:
        [C, D] in float32, with an L2 norm of 1.
    """
    prompts = [template.replace("{}", name) for name in classes for template in templates]
    features = clip.encode_text(prompts).float()
    return F.normalize(features.view(len(classes), len(templates), -1).mean(dim=1), dim=-1)


def build_heads(clip: Clip, suite: Suite) -> Heads:
    """Embed the classes of every task, and their union with each class's own templates."""
    labels = suite.joint()
    tasks = tuple(class_features(clip, task.classes, task.templates) for task in suite.tasks)
    # A shared class has the same name and templates in each of its tasks, so any of them will do.
    joint = tasks[0].new_empty(len(labels), tasks[0].shape[1])
    for features, mapping in zip(tasks, labels.local_to_joint, strict=True):
        joint[mapping.to(joint.device)] = features
    return Heads(tasks, joint, labels)
