"""A plan over the tiny CLIP, its three tasks of noise, and three adapters of different ranks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from knots.pipelines import MergePlan
from knots.pipelines.model_plan import ModelPlan
from knots.pipelines.plans import EvalPlan
from knots.pipelines.search.plan import Procedure, SearchPlan
from knots.search import Axis
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


@pytest.fixture
def search(plan: Callable[..., MergePlan]) -> Callable[..., SearchPlan]:
    """Makes searches on the tiny suite's validation split: fields of `Procedure`, or what `plan` takes."""

    def make(**changes: Any) -> SearchPlan:
        own = {key: changes.pop(key) for key in list(changes) if key in Procedure.__dataclass_fields__}
        seeds = changes.pop("seeds", (0,))
        test_split = changes.pop("test_split", "test")
        suite = changes.pop("suite", tiny_suite())
        both = [
            replace(task, sizes={**task.sizes, "validation": task.sizes["test"] + 7}) for task in suite.tasks
        ]
        merge = plan(**{"split": "validation", "suite": replace(suite, tasks=tuple(both)), **changes})
        axes = (Axis("scale", (0.5, 1.0, 2.0)), Axis("density", (0.3, 1.0)))
        procedure = Procedure(**{"name": "grid", "kind": "grid", "axes": axes, "metric": "normalized", **own})
        return SearchPlan(merge, procedure, seeds, test_split, {"merge": {}, "search": {}})

    return make
