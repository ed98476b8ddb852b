"""One trial of a search: what was tried, and the counts that it scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from knots.errors import KnotsError, unknown
from knots.evaluation import EvaluationResult
from knots.evaluation.metrics import HITS

JOINT = tuple(f"hits@{k}" for k in HITS)
METRICS = ("normalized", "accuracy", *JOINT)
"""What a search may maximise: averages over tasks, or hits pooled over all items."""


@dataclass(frozen=True)
class Trial:
    """A candidate and its counts on the validation split; every metric follows from them.

    Attributes:
        options: scale, density and drop.
        seed: of DARE's masks.
        n: task -> number of items.
        correct: task -> items that are right among the task's own classes; None where that was not scored.
        hits: "hits@k" -> items of all tasks whose label is among the first k of all classes; likewise.
        unscored: items without finite scores.
    """

    options: Mapping[str, float]
    seed: int
    n: Mapping[str, int]
    correct: Mapping[str, int] | None
    hits: Mapping[str, int] | None
    unscored: int = 0

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells the candidate from others."""
        return (self.seed, *sorted(self.options.items()))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            key: dict(value) if isinstance(value, Mapping) else value for key, value in vars(self).items()
        }


def trial_of(options: Mapping[str, float], seed: int, result: EvaluationResult) -> Trial:
    """The trial that an evaluation was."""
    tasks = result.tasks
    correct, joint = result.correct, result.joint
    return Trial(
        options=dict(options),
        seed=seed,
        n={task: int(n) for task, n in zip(tasks, result.n, strict=True)},
        correct=None if correct is None else {task: int(c) for task, c in zip(tasks, correct, strict=True)},
        hits=None if joint is None else dict(zip(JOINT, map(int, joint.hits.sum(axis=0)), strict=True)),
        unscored=result.unscored,
    )


def value_of(trial: Trial, metric: str, references: Mapping[str, float] | None = None) -> float:
    """What a trial is worth, in percent.

    Args:
        trial: its counts must hold what the metric needs.
        metric: one of `METRICS`.
        references: task -> fine-tuned accuracy in percent, for "normalized".

    Raises:
        KnotsError: the metric is unknown, or a reference to divide by is zero.
    """
    if metric not in METRICS:
        raise unknown("search metric", metric, METRICS)
    if metric in JOINT:
        assert trial.hits is not None
        return 100 * trial.hits[metric] / max(1, sum(trial.n.values()))
    assert trial.correct is not None
    accuracies = {task: 100 * right / trial.n[task] for task, right in trial.correct.items() if trial.n[task]}
    if metric == "normalized":
        assert references is not None
        zero = [task for task in accuracies if references[task] == 0]
        if zero:
            raise KnotsError(
                f"search metric 'normalized': the accuracy to divide by is 0 for {', '.join(zero)}; take "
                "more validation items, or search.metric=accuracy"
            )
        accuracies = {task: 100 * found / references[task] for task, found in accuracies.items()}
    return sum(accuracies.values()) / max(1, len(accuracies))
