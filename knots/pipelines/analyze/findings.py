"""What an analysis found, and the words and means that its record, sheets and figures share.

Shapes: T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from knots.analysis.activations import Similarities
from knots.analysis.geometry import Geometry
from knots.analysis.signs import SignConflicts, SignCounts
from knots.pipelines.analyze.plan import AnalysisPlan

LABELS = {"full": "full fine-tunes, dW x", "lora": "LoRA, dW x", "knots": "KnOTS basis, V' x"}
"""Panel -> how it is called; V' is a task's slice of the shared basis, without singular values."""

TOKENS = {
    "all": "every token of an item",
    "class": "the class token of an image",
    "last": "the last token of an item",
    "mean": "the mean over an item's tokens",
}

MEASURES = {"norms": "norm", "ranks": "rank", "effective": "effective rank", "stable": "stable rank"}
"""Fields of `Geometry` of one number a task, and how they are called."""

ANGLES = {"cosines": "cosine", "columns": "overlap of column spaces", "rows": "overlap of row spaces"}
"""Those of one number a pair of tasks."""


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything that was found.

    Attributes:
        similarities: CKA of every panel.
        items: that were looked at, over all tasks.
        geometry: kind of updates ("full", "lora") -> module -> its geometry.
        signs: space -> conflicts of the adapters' signs.
    """

    similarities: Similarities
    items: int
    geometry: Mapping[str, Mapping[str, Geometry]]
    signs: Mapping[str, SignConflicts]


def off_diagonal(matrix: Tensor) -> float:
    """The mean over pairs of different tasks that have a value."""
    others = ~torch.eye(len(matrix), dtype=torch.bool)
    return float(matrix[others].nanmean())


def sign_shares(counts: SignCounts) -> dict[str, Any]:
    """What `knots.analysis.signs` counts, as fractions; `pairwise` is the mean of `pairs`."""
    return {
        "conflict": number_or_none(counts.conflict),
        "pairwise": number_or_none(off_diagonal(counts.pairwise)),
        "cancelled": number_or_none(counts.cancelled),
        "pairs": plain_values(counts.pairwise),
    }


def number_or_none(value: float) -> float | None:
    """None for what is not defined."""
    return value if isfinite(value) else None


def plain_values(values: Tensor) -> list[Any]:
    """A vector or matrix as plain values."""
    if values.ndim > 1:
        return [plain_values(row) for row in values]
    return [number_or_none(value) for value in values.tolist()]


def inputs_in_words(plan: AnalysisPlan, findings: Findings) -> str:
    """Which inputs were looked at, in words."""
    options, tasks = plan.options, len(plan.suite.tasks)
    kind = {"vision": "images", "language": "pairs of sentences"}[plan.suite.modality]
    modules = len(next(iter(findings.similarities.panels.values())))
    each = f"{'' if findings.items == options.items * tasks else 'up to '}{options.items} {options.split}"
    return (
        f"x: inputs of {modules} modules in the base, on {each} {kind} of each of {tasks} tasks "
        f"({findings.items:,} pooled, drawn by seed {options.seed}), {TOKENS[options.tokens]} "
        f"({findings.similarities.rows:,} rows); mean over modules"
    )
