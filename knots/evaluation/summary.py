"""The numbers of a run as they are written to `metrics.json`: percent, every key always there.

A value that does not apply is None: per-task numbers in mode joint, joint ones in mode per_task,
normalized ones without a fine-tuned reference, anything of a task without items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from knots.errors import KnotsError
from knots.evaluation.intervals import Bootstrap, Interval, PairedCounts, bootstrap, pair, wilson
from knots.evaluation.metrics import HITS
from knots.evaluation.results import EvaluationResult, JointResult
from knots.runs import SCHEMA

BOOTSTRAP_SEED = 0
"""Of the intervals' draws: fixed, for an interval is a property of the result, not of the run's seed."""

JOINT_KEYS = (*(f"hits@{k}" for k in HITS), *(f"hits_dedup@{k}" for k in HITS))


def summarize(
    result: EvaluationResult,
    *,
    model: str,
    merge: Mapping[str, Any],
    seed: int,
    zero_shot: EvaluationResult | None = None,
    finetuned: EvaluationResult | None = None,
    published: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Everything that is reported of a run.

    Args:
        result: the run's own result.
        model: name of the model.
        merge: how the merge is described: kind, method, space, rule, scale and so on.
        seed: the run's seed.
        zero_shot: the base's result on the same split.
        finetuned: the fine-tuned adapters' result on the same split, which accuracies are divided by.
        published: task -> a published accuracy in percent, to divide by instead.

    Returns:
        The content of `metrics.json`. Intervals are 95 %: Wilson's for shares (`ci95`); a paired
        bootstrap over items, stratified by task, for ratios and averages (`normalized_ci95`,
        `accuracy_ci95`). Averages are over the tasks that have items.

    Raises:
        KnotsError: the results are not of the same tasks and items, or a published value is missing.
    """
    for name, other in (("zero_shot", zero_shot), ("finetuned", finetuned)):
        _check_comparable(result, other, name)
    reference = _reference(result, finetuned, published)
    return {
        "schema": SCHEMA,
        "model": model,
        "suite": result.suite,
        "modality": result.modality,
        "merge": {**merge},
        "seed": seed,
        "mode": result.mode,
        "protocol": result.protocol,
        "split": result.split,
        **_per_task(result, zero_shot, reference, _draws(result, finetuned, published)),
        "joint": _joint(result.joint, result),
        "router": _router(result),
        "unscored": result.unscored,
        "notes": list(result.notes),
    }


def _per_task(
    result: EvaluationResult,
    zero_shot: EvaluationResult | None,
    reference: Mapping[str, float | None],
    draws: Bootstrap | None,
) -> dict[str, Any]:
    """The keys `per_task` and `average`."""
    accuracies, base = _percents(result), _percents(zero_shot)
    filled = [task for task, n in zip(result.tasks, result.n, strict=True) if n]
    majority = _majority(result)
    ratio_cis = dict(zip(filled, draws.normalized, strict=True)) if draws else {}
    rows: dict[str, dict[str, Any]] = {}
    for position, task in enumerate(result.tasks):
        n = int(result.n[position])
        correct = None if result.correct is None else int(result.correct[position])
        accuracy, ceiling = accuracies.get(task), reference.get(task)
        ratio = accuracy / ceiling if accuracy is not None and ceiling else None
        rows[task] = {
            "accuracy": accuracy,
            "ci95": None if correct is None else _percent_interval(wilson(correct, n)),
            "zero_shot": base.get(task),
            "majority": majority.get(task),
            "finetuned": ceiling,
            "normalized": None if ratio is None else 100 * ratio,
            "normalized_ci95": None if ratio is None else _percent_interval(ratio_cis.get(task)),
            "n": n,
        }
    return {"per_task": rows, "average": _average([rows[task] for task in filled], draws)}


def _majority(result: EvaluationResult) -> dict[str, float]:
    """Task -> share of its most frequent label, in percent, which no constant answer beats."""
    labels = result.predictions.groupby("task", sort=False)["label"]
    return {str(task): 100 * float(share) for task, share in labels.agg(_most_frequent).items()}


def _most_frequent(labels: pd.Series[int]) -> float:
    return float(labels.value_counts(normalize=True).iloc[0])


def _average(rows: list[dict[str, Any]], draws: Bootstrap | None) -> dict[str, Any]:
    averages = {}
    for key in ("accuracy", "normalized"):
        values = [row[key] for row in rows]
        averages[key] = float(np.mean(values)) if values and None not in values else None
    accuracy_ci = draws.accuracy if draws and averages["accuracy"] is not None else None
    normalized_ci = draws.normalized_average if draws and averages["normalized"] is not None else None
    return {
        **averages,
        "accuracy_ci95": _percent_interval(accuracy_ci),
        "normalized_ci95": _percent_interval(normalized_ci),
    }


def _joint(joint: JointResult | None, result: EvaluationResult) -> dict[str, Any]:
    """The key `joint`: shares over all items, their macro averages over tasks, and leakage."""
    keys = ("classes", *JOINT_KEYS, "n", "ci95", "macro", "leakage")
    total = int(result.n.sum())
    if joint is None or total == 0:
        return dict.fromkeys(keys)
    counts = np.concatenate([joint.hits, joint.hits_dedup], axis=1)
    filled = result.n > 0
    shares = counts[filled] / result.n[filled, None]
    pooled = counts.sum(axis=0)
    intervals = [_percent_interval(wilson(int(hits), total)) for hits in pooled]
    return {
        "classes": joint.classes,
        **{key: 100 * int(hits) / total for key, hits in zip(JOINT_KEYS, pooled, strict=True)},
        "n": total,
        "ci95": dict(zip(JOINT_KEYS, intervals, strict=True)),
        "macro": {key: 100 * float(s) for key, s in zip(JOINT_KEYS, shares.mean(axis=0), strict=True)},
        "leakage": [
            [100 * int(leaks) / int(errors) if errors else None for leaks in row]
            for row, errors in zip(joint.leaks, joint.errors, strict=True)
        ],
    }


def _router(result: EvaluationResult) -> dict[str, Any] | None:
    """The key `router`: the share of each task's items that went through its own adapter, and each."""
    if result.routed is None:
        return None
    shares = [
        [100 * int(count) / int(row.sum()) if row.sum() else None for count in row] for row in result.routed
    ]
    own = {task: shares[place][place] for place, task in enumerate(result.tasks)}
    return {"own": own, "routed": shares}


def _draws(
    result: EvaluationResult, finetuned: EvaluationResult | None, published: Mapping[str, float] | None
) -> Bootstrap | None:
    """Bootstrap draws over the tasks that have items; None where nothing was scored per task."""
    filled = [task for task, n in zip(result.tasks, result.n, strict=True) if n]
    if result.correct is None or not filled:
        return None
    measured = published is None and finetuned is not None and finetuned.correct is not None
    other = finetuned if measured and finetuned is not None else result
    draws = bootstrap(_pairs(result, other, filled), seed=BOOTSTRAP_SEED)
    if published is None:
        return draws
    constant = np.array([published[task] / 100 for task in filled])
    return Bootstrap(draws.first, np.broadcast_to(constant, draws.first.shape))


def _pairs(first: EvaluationResult, second: EvaluationResult, tasks: list[str]) -> list[PairedCounts]:
    outcomes = []
    for result in (first, second):
        table = result.predictions
        right = (table["prediction"] == table["label"]).to_numpy(dtype=bool)
        outcomes.append({task: right[(table["task"] == task).to_numpy()] for task in tasks})
    return [pair(outcomes[0][task], outcomes[1][task]) for task in tasks]


def _reference(
    result: EvaluationResult, finetuned: EvaluationResult | None, published: Mapping[str, float] | None
) -> Mapping[str, float | None]:
    """The accuracies in percent that a run's are divided by."""
    if published is None:
        return _percents(finetuned)
    absent = [task for task in result.tasks if task not in published]
    if absent:
        raise KnotsError(f"no published fine-tuned accuracy for task {absent[0]!r}")
    return {task: float(published[task]) for task in result.tasks}


def _percents(result: EvaluationResult | None) -> dict[str, float | None]:
    if result is None or result.accuracies is None:
        return {}
    values = (100 * result.accuracies).tolist()
    return {
        task: None if np.isnan(value) else value for task, value in zip(result.tasks, values, strict=True)
    }


def _check_comparable(result: EvaluationResult, other: EvaluationResult | None, name: str) -> None:
    if other is None:
        return
    facts: list[tuple[str, Callable[[EvaluationResult], object]]] = [
        ("suite", lambda r: r.suite),
        ("tasks", lambda r: r.tasks),
        ("split", lambda r: r.split),
        ("protocol", lambda r: r.protocol),
        ("numbers of items", lambda r: r.n.tolist()),
    ]
    for what, read in facts:
        if read(result) != read(other):
            raise KnotsError(
                f"the {name} baseline cannot be compared with this result: its {what} are "
                f"{read(other)!r}, not {read(result)!r}"
            )


def _percent_interval(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [100 * interval[0], 100 * interval[1]]
