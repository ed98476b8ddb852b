"""A plan over the tiny CLIP, its three tasks of noise, and three adapters of different ranks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from knots.pipelines import MergePlan
from knots.pipelines.model_plan import ModelPlan
from knots.pipelines.plans import EvalPlan
from knots.suites import data
from tests.miniatures import NOISE, tiny_adapter, tiny_clip, tiny_suite

OPTIONS = {
    "space": "knots",
    "rule": "ties",
    "scale": 1.0,
    "density": 0.3,
    "reduce": None,
    "drop": 0.0,
    "dare_rng": "task",
    "trim": "model",
    "weights": None,
    "isotropize": False,
    "cutoff": 1e-5,
}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelPlan:
    """The tiny CLIP and an adapter for each of its tasks, on disk."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_clip(folder / "base")
    for seed, task in enumerate(tiny_suite().task_names):
        tiny_adapter(folder / "adapters" / task, seed=seed, rank=2 + seed)
    return ModelPlan("tiny", "clip", str(folder / "base"), None, str(folder / "adapters" / "{task}"))


@pytest.fixture
def plan(model: ModelPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., MergePlan]:
    """Makes plans: fields of `MergePlan`, or options of the merge."""
    monkeypatch.setattr(data, "SOURCES", {"noise": NOISE})

    def make(**changes: Any) -> MergePlan:
        fields = {key: changes.pop(key) for key in list(changes) if key in MergePlan.__dataclass_fields__}
        scoring = EvalPlan("all", "float32", "test", "measured", "32", 16)
        known = {key: changes.pop(key) for key in list(changes) if key in EvalPlan.__dataclass_fields__}
        plan = MergePlan(
            model=model,
            suite=tiny_suite(),
            kind="merged",
            options={**OPTIONS, **changes} if fields.get("kind", "merged") == "merged" else {},
            seed=0,
            max_rank=None,
            scoring=replace(scoring, **known),
            trainer={"accelerator": "cpu", "devices": 1},
            root=tmp_path / "outputs" / "merge",
            cache_dir=tmp_path / "cache",
            config={"merge": {}},
        )
        return replace(plan, **fields)

    return make
