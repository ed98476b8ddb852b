"""Fixtures of the evaluation's tests: a tiny CLIP, a suite of noise, and a way to score it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from knots.adapters import Adapter
from knots.evaluation import EvaluationResult, Predictor, evaluate
from knots.models.clip import Clip, ClipSpec, load_clip
from knots.pipelines.trainers import quiet_trainer
from knots.suites import data
from tests.miniatures import NOISE, tiny_adapter_in_memory, tiny_clip, tiny_suite

Score = Callable[..., EvaluationResult]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """A tiny random CLIP; an evaluation leaves its weights as they were."""
    return load_clip(ClipSpec("tiny", str(tiny_clip(tmp_path_factory.mktemp("clip")))))


@pytest.fixture
def trainer() -> L.Trainer:
    """A quiet trainer on the CPU."""
    return quiet_trainer({"accelerator": "cpu", "devices": 1})


@pytest.fixture
def score(clip: Clip, trainer: L.Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Score:
    """Score a predictor on the tiny suite; every argument of `evaluate` can be given."""
    monkeypatch.setattr(data, "SOURCES", {"noise": NOISE})

    def run(predictor: Predictor, **options: Any) -> EvaluationResult:
        arguments = {
            "suite": tiny_suite(),
            "mode": "all",
            "protocol": "float32",
            "split": "test",
            "cache_dir": tmp_path / "cache",
            "batch_size": 8,
            "trainer": trainer,
        }
        return evaluate(clip, predictor=predictor, **(arguments | options))

    return run


@pytest.fixture(scope="session")
def adapters() -> Sequence[Adapter]:
    """One adapter a task, of different ranks."""
    return [tiny_adapter_in_memory(f"task {seed}", seed, rank=2 + seed, size=1.5) for seed in range(3)]
