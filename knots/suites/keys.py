"""What splits of pictures and of sentences share: names of cached ones, samples, and a check of labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from knots.errors import KnotsError
from knots.suites.tasks import Task


@dataclass(frozen=True)
class Sample:
    """A few items of a split, drawn by a seed.

    Attributes:
        count: how many; all of them where there are fewer.
        seed: of the draw.
    """

    count: int
    seed: int


def folder_of(task: Task, split: str, root: Path, identity: Mapping[str, Any], sample: Sample | None) -> Path:
    """The folder of a cached split: a readable name and a hash of everything that its items depend on."""
    content = {
        "task": task.name,
        "split": split,
        "size": task.size(split),
        "classes": task.classes,
        "sample": None if sample is None else [sample.count, sample.seed],
        **identity,
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    return root / "data" / f"{task.name}-{split}-{digest[:16]}"


def chosen_items(n: int, sample: Sample | None) -> npt.NDArray[np.int64]:
    """Numbers of the items of a sample of N, in ascending order; of all without one."""
    if sample is None or sample.count >= n:
        return np.arange(n, dtype=np.int64)
    return np.sort(np.random.default_rng(sample.seed).permutation(n)[: sample.count])


def check_labels(labels: npt.NDArray[np.int64], task: Task, split: str) -> None:
    """Refuse labels that are no class of the task.

    Raises:
        KnotsError: there are such labels.
    """
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(task.classes)):
        raise KnotsError(
            f"the {split} split of task {task.name!r} has labels from {labels.min()} to {labels.max()}, "
            f"but the task has {len(task.classes)} classes"
        )
