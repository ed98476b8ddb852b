"""Adapters and full fine-tunes that an experiment needs, trained where they are missing."""

from __future__ import annotations

import logging
from pathlib import Path

from knots.finetuning import FinetuningPlan, finetune_tasks
from knots.pipelines.analyze import AnalysisPlan
from knots.pipelines.plans import MergePlan

log = logging.getLogger(__name__)


def train_missing(
    subject: MergePlan | AnalysisPlan, recipe: FinetuningPlan, folder: Path, label: str
) -> None:
    """Train every task of a plan by one recipe; what is finished is skipped, what was killed gone on with.

    Args:
        subject: whose base, tasks, devices and caches are taken.
        recipe: how each task is trained.
        folder: each goes into a folder below, named after its task.
        label: stands before a task's name in log lines.

    Raises:
        KnotsError: as `finetune_tasks`.
    """
    trainings = finetune_tasks(
        subject.model.spec,
        subject.suite,
        "all",
        recipe,
        folder,
        subject.trainer,
        cache_dir=subject.cache_dir,
        force=False,
        options=subject.data,
    )
    for task, accuracies in trainings:
        for when, accuracy in (accuracies or {}).items():
            log.info("%s, %s: %s %.2f %% on the validation split", label, task, when, accuracy)
