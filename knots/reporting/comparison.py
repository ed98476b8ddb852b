"""One run beside its baselines: what tables and figures show of it.

Everything here is read from `metrics.json` as `knots.evaluation.summarize` makes it: percent, and None where
a number does not apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Metrics = Mapping[str, Any]

LABELS = {
    "zero_shot": "zero-shot",
    "finetuned": "fine-tuned",
    "merged": "merged",
    "ensemble": "ensemble",
    "single": "single adapter",
    "multitask": "multi-task",
    "router": "router",
}
BASE = "base"
"""How an unmerged language model with the tasks' own heads is called; they were trained: no zero-shot."""

HITS = (1, 3, 5, 10)


@dataclass(frozen=True)
class Value:
    """A number in percent and its 95 % interval, either of them None where it does not apply."""

    percent: float | None
    interval: tuple[float, float] | None = None

    @property
    def margin(self) -> float | None:
        """The longer arm of the interval, in points."""
        if self.percent is None or self.interval is None:
            return None
        low, high = self.interval
        return max(self.percent - low, high - self.percent)


NOTHING = Value(None)


@dataclass(frozen=True)
class Comparison:
    """A run and the baselines it was made with.

    Attributes:
        metrics: of the run.
        baselines: kind -> metrics, in the order in which they are shown; empty for a baseline itself.
    """

    metrics: Metrics
    baselines: Mapping[str, Metrics] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names in the suite's order."""
        return tuple(self.metrics["per_task"])

    @property
    def kind(self) -> str:
        """What the run evaluated."""
        return str(self.metrics["merge"]["kind"])

    @property
    def title(self) -> str:
        """What was run on what."""
        metrics = self.metrics
        return f"{metrics['merge']['method']} on {metrics['model']}, suite {metrics['suite']}"

    def series(self) -> dict[str, Metrics]:
        """Label -> metrics, baselines first."""
        labelled = {_label(metrics): metrics for metrics in self.baselines.values()}
        return {**labelled, _label(self.metrics): self.metrics}


def is_language(metrics: Metrics) -> bool:
    """Whether the tasks are of sentences; their majority classes are a baseline, and nothing is joint."""
    return metrics.get("modality") == "language"


def _label(metrics: Metrics) -> str:
    kind = str(metrics["merge"]["kind"])
    return BASE if kind == "zero_shot" and is_language(metrics) else LABELS[kind]


def accuracy(metrics: Metrics, task: str) -> Value:
    """A task's accuracy."""
    return _value(metrics["per_task"][task], "accuracy")


def normalized(metrics: Metrics, task: str) -> Value:
    """A task's accuracy relative to its fine-tuned one."""
    return _value(metrics["per_task"][task], "normalized")


def majority(metrics: Metrics, task: str) -> Value:
    """The share of a task's most frequent class."""
    return Value(metrics["per_task"][task].get("majority"))


def average(metrics: Metrics, key: str) -> Value:
    """The mean over tasks of `key`, "accuracy" or "normalized"."""
    return _value(metrics["average"], key)


def joint(metrics: Metrics, key: str) -> Value:
    """A number of the joint evaluation, such as "hits@1"; nothing where it was not run."""
    numbers = metrics["joint"] or {}
    interval = (numbers.get("ci95") or {}).get(key)
    return Value(numbers.get(key), None if interval is None else (interval[0], interval[1]))


def macro(metrics: Metrics, key: str) -> Value:
    """The same, averaged over tasks."""
    return Value(((metrics["joint"] or {}).get("macro") or {}).get(key))


def has_joint(metrics: Metrics) -> bool:
    """Whether the tasks were scored jointly."""
    return joint(metrics, "hits@1").percent is not None


def _value(numbers: Mapping[str, Any], key: str) -> Value:
    """A number with its interval, which stands under `<key>_ci95`, or `ci95` for a task's accuracy."""
    interval = numbers.get(f"{key}_ci95") or (numbers.get("ci95") if key == "accuracy" else None)
    return Value(numbers.get(key), None if interval is None else (interval[0], interval[1]))
