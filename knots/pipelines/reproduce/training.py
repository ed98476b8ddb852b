"""Adapters and full fine-tunes that an experiment needs, trained where they are missing."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from knots.finetuning import FinetuningPlan, finetune_tasks
from knots.pipelines.analyze import AnalysisPlan, finished_analysis, run_analysis
from knots.pipelines.plans import MergePlan
from knots.runs import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FullFinetunes:
    """Full fine-tunes that stand beside the adapters in a comparison of updates.

    Attributes:
        recipe: how each of the comparison's tasks is trained.
        folder: each goes into a folder below, named after its task.
    """

    recipe: FinetuningPlan
    folder: Path


def compare(
    analysis: AnalysisPlan, full: FullFinetunes | None, label: str, console: Console, *, run: bool
) -> Run | None:
    """Train what is missing, then compare the updates.

    Args:
        analysis: the comparison.
        full: what is trained for it; None where everything is there.
        label: stands before a task's name in log lines.
        console: where bars are drawn.
        run: False to look up only what is there.

    Returns:
        The comparison; None where it is not there and nothing is to be run.

    Raises:
        KnotsError: as `finetune_tasks`, `run_analysis` and `finished_analysis`.
    """
    if not run:
        return finished_analysis(analysis) if full is None or full.folder.is_dir() else None
    if full is not None:
        train_missing(analysis, full.recipe, full.folder, label)
    return run_analysis(analysis, console)


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
