"""An evaluation that is called again goes on after the last task that was done, to the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from knots import interruption
from knots.adapters import Adapter
from knots.errors import KnotsError
from knots.evaluation import Ensemble, EvaluationResult, Finetuned, Merged, Predictor
from knots.evaluation.module import SuiteEvaluation
from knots.evaluation.saved import SavedCounts

Score = Callable[..., EvaluationResult]


class StoppedError(Exception):
    """Stands for a kill."""


@pytest.fixture(autouse=True)
def nothing_asked() -> Iterator[None]:
    yield
    interruption.forget()


def watch(monkeypatch: pytest.MonkeyPatch, at: int | None, stop: Callable[[], Any]) -> list[int]:
    """The tasks whose batches are scored; `stop` is called at the first batch of task `at`."""
    seen: list[int] = []
    original = SuiteEvaluation.test_step

    def test_step(self: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if batch.task == at:
            stop()
        seen.append(batch.task)
        original(self, batch, batch_idx, dataloader_idx)

    monkeypatch.setattr(SuiteEvaluation, "test_step", test_step)
    return seen


def kill() -> None:
    raise StoppedError


def predictors(adapters: Sequence[Adapter]) -> list[Predictor]:
    return [Merged(lambda _: adapters[1]), Finetuned(adapters), Ensemble(adapters)]


def check_same(found: EvaluationResult, whole: EvaluationResult) -> None:
    pd.testing.assert_frame_equal(found.predictions, whole.predictions)
    for name in ("n", "correct", "routed"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    for name in ("classes", "hits", "hits_dedup", "errors", "leaks"):
        np.testing.assert_array_equal(getattr(found.joint, name), getattr(whole.joint, name))
    assert found.notes == whole.notes


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("at", [1, 2])
def test_one_that_was_killed_scores_only_the_tasks_that_were_not_done(
    place: int, at: int, score: Score, adapters: Sequence[Adapter], tmp_path: Path, monkeypatch: Any
):
    whole = score(predictors(adapters)[place])
    kept = tmp_path / "kept"
    with monkeypatch.context() as patch:
        watch(patch, at, kill)
        with pytest.raises(StoppedError):
            score(predictors(adapters)[place], kept=kept)
    with monkeypatch.context() as patch:
        seen = watch(patch, None, kill)
        found = score(predictors(adapters)[place], kept=kept)
    assert set(seen) == set(range(at, 3))
    check_same(found, whole)
    assert found.speed is not None
    assert found.speed.items == found.n[at:].sum()


def test_one_that_is_told_to_stop_ends_before_its_next_batch(
    score: Score, adapters: Sequence[Adapter], tmp_path: Path, monkeypatch: Any
):
    kept = tmp_path / "kept"
    with monkeypatch.context() as patch:
        seen = watch(patch, 1, lambda: interruption.ask("SIGUSR2"))
        with pytest.raises(interruption.Interrupted, match="SIGUSR2"):
            score(Finetuned(adapters), kept=kept)
    assert seen.count(1) == 1
    interruption.forget()
    assert [path.name for path in kept.iterdir()] == ["1-tasks-0-of-1.safetensors"]
    check_same(score(Finetuned(adapters), kept=kept), score(Finetuned(adapters)))


def test_the_base_is_given_back_after_a_stop(score: Score, adapters: Sequence[Adapter], clip: Any):
    before = {name: weight.clone() for name, weight in clip.model.state_dict().items()}
    interruption.ask("SIGTERM")
    with pytest.raises(interruption.Interrupted):
        score(Finetuned(adapters))
    assert all(bool((weight == before[name]).all()) for name, weight in clip.model.state_dict().items())


def test_nothing_is_kept_without_a_folder(score: Score, adapters: Sequence[Adapter], tmp_path: Path):
    score(Finetuned(adapters))
    assert not list(tmp_path.rglob("*-tasks-*"))


def test_counts_of_another_number_of_processes_are_not_gone_on_from(tmp_path: Path):
    for name in ("1-tasks-0-of-2", "2-tasks-0-of-2", "1-tasks-1-of-2", "2-tasks-0-of-1"):
        (tmp_path / f"{name}.safetensors").touch()
    # The second process of two was not done with its second task; the last task is never skipped.
    assert SavedCounts(tmp_path, 0, 2).done(4) == 1
    assert SavedCounts(tmp_path, 0, 1).done(4) == 2
    assert SavedCounts(tmp_path, 0, 1).done(2) == 0
    assert SavedCounts(tmp_path / "absent", 0, 1).done(4) == 0


def test_damaged_counts_are_named(tmp_path: Path, score: Score, adapters: Sequence[Adapter]):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "1-tasks-0-of-1.safetensors").write_bytes(b"\x00")
    with pytest.raises(KnotsError, match=r"1-tasks-0-of-1\.safetensors cannot be gone on from .*delete"):
        score(Finetuned(adapters), kept=kept)
