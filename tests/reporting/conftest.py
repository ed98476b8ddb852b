"""Made-up metrics in the form of `metrics.json`."""

from typing import Any

import pytest

TASKS = ("digits", "street_numbers", "letters", "textures", "signs", "land_cover", "scenes", "vehicles")


def make_metrics(kind: str, level: float, *, joint: bool = True, method: str | None = None) -> dict[str, Any]:
    merged = kind in ("merged", "ensemble")
    per_task = {
        task: {
            "accuracy": level + place,
            "ci95": [level + place - 1.5, level + place + 1.25],
            "zero_shot": 40.0 + place if merged else None,
            "finetuned": 90.0 + place if merged else None,
            "normalized": 100 * (level + place) / (90.0 + place) if merged else None,
            "n": 4000 + place,
        }
        for place, task in enumerate(TASKS)
    }
    hits = {f"hits@{k}": level - 10 + k for k in (1, 3, 5, 10)}
    return {
        "schema": 1,
        "model": "mini_clip",
        "suite": "mini_vision8",
        "merge": {"kind": kind, "method": method or kind, "scale": 1.0 if merged else None},
        "seed": 0,
        "mode": "all" if joint else "per_task",
        "split": "test",
        "per_task": per_task,
        "average": {
            "accuracy": level + 3.5,
            "accuracy_ci95": [level + 3, level + 4.5],
            "normalized": 81.0 if merged else None,
        },
        "joint": {"classes": 71, "n": 32028, **hits, "hits_dedup@1": level - 8, "macro": hits, "leakage": []}
        if joint
        else dict.fromkeys(("classes", "n", "hits@1", "macro")),
    }


@pytest.fixture
def merged() -> dict[str, Any]:
    return make_metrics("merged", 60.0, method="knots_ties")


@pytest.fixture
def baselines() -> dict[str, dict[str, Any]]:
    return {"zero_shot": make_metrics("zero_shot", 40.0), "finetuned": make_metrics("finetuned", 90.0)}
