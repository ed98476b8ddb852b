"""What determines the result of a run, as plain values: the run id is made from it.

Contents count, not where they lie: the same adapters in another folder are the same run. Paths, devices,
loggers and batch sizes are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from knots.adapters import Adapter, content_fingerprint
from knots.evaluation.routing import PROTOTYPES
from knots.pipelines.bounds import choice_metric
from knots.pipelines.plans import MergePlan
from knots.suites.data import Reading, source_identity
from knots.suites.tasks import ImageTask, Task, TextTask
from knots.suites.texts import TextReading


def merge_identity(
    plan: MergePlan,
    base: Mapping[str, str],
    text: Mapping[str, str] | None,
    adapters: Sequence[Adapter],
    reading: Reading | TextReading,
    heads: Sequence[Tensor] | None = None,
    alone: Adapter | None = None,
) -> dict[str, Any]:
    """Identity of a run of `run_merge`.

    Args:
        plan: the run.
        base: what tells the base from others.
        text: what tells the text tower from others, where it is not the base's own.
        adapters: those that the run depends on, be it that it is normalized by them; none for `zero_shot`.
        reading: how items become what the base takes.
        heads: each task's own, where tasks bring one.
        alone: the adapter that all tasks are scored with, where one is that is no merge.
    """
    scoring = plan.scoring
    identity: dict[str, Any] = {
        "kind": plan.kind,
        "family": plan.model.family,
        "base": dict(base),
        "adapters": [[adapter.name, adapter.fingerprint] for adapter in adapters],
        "suite": [_task(plan, task, scoring.split, reading) for task in plan.suite.tasks],
        "eval": {"mode": scoring.mode, "protocol": scoring.protocol, "split": scoring.split},
        "precision": scoring.precision,
    }
    if plan.kind not in ("zero_shot", "finetuned"):
        identity["normalize_by"] = scoring.normalize_by
    if plan.kind == "merged":
        identity |= {"merge": _options(plan.options), "seed": plan.seed, "max_rank": plan.max_rank}
    if alone is not None:
        identity["alone"] = [alone.name, alone.fingerprint]
    if plan.chosen is not None:
        identity["chosen_by"] = choice_metric(plan)
    if plan.kind == "router":
        identity["prototypes"] = [
            data_identity(task, PROTOTYPES, plan.cache_dir, reading) for task in plan.suite.tasks
        ]
    if plan.calibration is not None:
        shown = [
            data_identity(task, plan.calibration.split, plan.cache_dir, reading) for task in plan.suite.tasks
        ]
        identity["calibration"] = {**vars(plan.calibration), "data": shown}
    if text is not None:
        identity["text"] = dict(text)
    if heads is not None:
        identity["heads"] = [content_fingerprint({}, {"head": head}) for head in heads]
    return identity


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Merge options; a rule of the user's own by its name and the content of its file."""
    file, _, function = str(options["rule"]).rpartition(":")
    if not file:
        return dict(options)
    path = Path(file).expanduser()
    content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    return {**options, "rule": {"function": function, "content": content}}


def _task(plan: MergePlan, task: Task, split: str, reading: Reading | TextReading) -> dict[str, Any]:
    own: dict[str, Any] = {"classes": task.classes}
    if isinstance(task, ImageTask):
        own["templates"] = task.templates
    elif isinstance(task, TextTask):
        own |= {"absent": task.absent, "max_length": task.max_length}
    return {**own, **data_identity(task, split, plan.cache_dir, reading)}


def data_identity(task: Task, split: str, cache_dir: Path, reading: Reading | TextReading) -> dict[str, Any]:
    """What tells a task's split from others."""
    return {
        "name": task.name,
        "items": task.size(split),
        **source_identity(task, split, cache_dir, reading),
    }
