"""What determines the result of a run, as plain values: the run id is made from it.

Contents count, not where they lie: the same adapters in another folder are the same run. Paths, devices,
loggers and batch sizes are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from knots.adapters import Adapter
from knots.assets import asset_path
from knots.pipelines.plans import MergePlan, ModelPlan
from knots.suites import data
from knots.suites.tasks import ImageTask, Suite

MODEL_FILES = (".json", ".safetensors", ".bin", ".txt", ".model")
"""Suffixes of the files that make up a base: weights, tokenizer, transform; not its model card."""

PROTOCOLS = {"float32": "float32", "reference": "reference, half precision on every device"}
"""What each protocol does: the reference one was once float32 on the CPU, and has other numbers since."""


def merge_identity(
    plan: MergePlan, base: Mapping[str, str | None], adapters: Sequence[Adapter]
) -> dict[str, Any]:
    """Identity of a run of `run_merge`.

    Args:
        plan: the run.
        base: `base_identity` of its model.
        adapters: those that the run depends on; none for `zero_shot`.
    """
    scoring = plan.scoring
    identity: dict[str, Any] = {
        "kind": plan.kind,
        "family": plan.model.family,
        "base": dict(base),
        "adapters": [[adapter.name, adapter.fingerprint] for adapter in adapters],
        "suite": _suite(plan.suite, scoring.split),
        "eval": {"mode": scoring.mode, "protocol": PROTOCOLS[scoring.protocol], "split": scoring.split},
        "precision": scoring.precision,
    }
    if plan.kind not in ("zero_shot", "finetuned"):
        identity["normalize_by"] = scoring.normalize_by
    if plan.kind == "merged":
        identity |= {"merge": _options(plan.options), "seed": plan.seed, "max_rank": plan.max_rank}
    return identity


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Merge options; a rule of the user's own by its name and the content of its file."""
    file, _, function = str(options["rule"]).rpartition(":")
    if not file:
        return dict(options)
    path = Path(file).expanduser()
    content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    return {**options, "rule": {"function": function, "content": content}}


def base_identity(model: ModelPlan) -> dict[str, str | None]:
    """Content of a folder, or id and revision on the hub."""
    if model.base.startswith("asset:"):
        return {"content": _folder_content(asset_path(model.base.removeprefix("asset:")))}
    folder = Path(model.base).expanduser()
    if folder.is_dir():
        return {"content": _folder_content(folder)}
    return {"hub": model.base, "revision": model.revision}


def _folder_content(folder: Path) -> str:
    """SHA-256 over names and contents of the files that make up a base."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in MODEL_FILES:
            with path.open("rb") as file:
                digest.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _suite(suite: Suite, split: str) -> list[dict[str, Any]]:
    return [_task(task, split) for task in suite.tasks]


def _task(task: ImageTask, split: str) -> dict[str, Any]:
    source = data.SOURCES.get(str(task.source["kind"]))
    return {
        "name": task.name,
        "classes": task.classes,
        "templates": task.templates,
        "items": task.size(split),
        "source": dict(task.source),
        "version": [data.LAYOUT_VERSION, source.version if source else None],
    }
