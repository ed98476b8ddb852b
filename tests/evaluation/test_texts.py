"""Evaluations of a tiny Llama, recounted by transformers' own classifier, one pair of sentences at a time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from transformers import LlamaForSequenceClassification

from knots.adapters import Adapter, load_adapter
from knots.errors import KnotsError
from knots.evaluation import (
    Ensemble,
    EvaluationResult,
    Finetuned,
    Merged,
    Predictor,
    Router,
    ZeroShot,
    evaluate,
)
from knots.merging import merge
from knots.models.attach import fold
from knots.models.classifier import Classifier, ClassifierSpec, classifier_reading, load_classifier
from knots.models.clip import Clip
from knots.models.task_heads import task_heads
from knots.pipelines.trainers import quiet_trainer
from knots.suites.tasks import Suite
from knots.updates import Dense
from tests.language import tiny_llama, tiny_text_adapter, tiny_text_arrays, tiny_text_task
from tests.miniatures import tiny_suite

ABSENT = {"first": (), "second": ("neutral",), "third": ("contradiction",)}
COUNTS = {"first": 61, "second": 40, "third": 1}
SUITE = Suite(
    "tiny", "language", tuple(tiny_text_task(name, absent=absent) for name, absent in ABSENT.items())
)
DATA = {name: tiny_text_arrays(COUNTS[name], seed, longest=20) for seed, name in enumerate(COUNTS)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Classifier:
    return load_classifier(ClassifierSpec("tiny", str(folder)))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Adapter]:
    """One adapter a task, with heads and of different ranks."""
    root = tmp_path_factory.mktemp("adapters")
    return [
        load_adapter(tiny_text_adapter(root / name, seed, rank=2 + seed)) for seed, name in enumerate(COUNTS)
    ]


@pytest.fixture
def score(
    classifier: Classifier, own: Sequence[Adapter], trainer: L.Trainer, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., EvaluationResult]:
    monkeypatch.setattr("knots.evaluation.module.load_split", lambda task, *_: DATA[task.name])
    monkeypatch.setattr("knots.evaluation.module.prepare", lambda *_: None)

    def run(predictor: Predictor, model: Classifier | Clip = classifier, **options: Any) -> EvaluationResult:
        arguments = {
            "suite": SUITE,
            "mode": "all",
            "protocol": "float32",
            "split": "test",
            "cache_dir": Path("nowhere"),
            "batch_size": 100,
            "trainer": trainer,
            "heads": task_heads(own, None, Path("nowhere")),
            "reading": classifier_reading(classifier.base),
        }
        return evaluate(model, predictor=predictor, **(arguments | options))

    return run


def slow_predictions(folder: Path, used: Sequence[Adapter | None], own: Sequence[Adapter]) -> list[int]:
    """The argmax of each pair's logits, its absent classes at minus infinity."""
    predictions = []
    for task, adapter, source in zip(SUITE.text_tasks, used, own, strict=True):
        theirs = LlamaForSequenceClassification.from_pretrained(folder, num_labels=3)
        theirs.requires_grad_(False).score.weight.copy_(source.heads["score.weight"])
        fold(theirs, adapter or Adapter("none", {}))
        arrays = DATA[task.name]
        for item in range(len(arrays)):
            logits = theirs(input_ids=arrays.padded([item], 0)[0]).logits[0]
            logits[list(task.absent)] = -torch.inf
            predictions.append(int(logits.argmax()))
    return predictions


@pytest.mark.parametrize("name", ["zero_shot", "merged", "finetuned"])
def test_predictions_are_those_of_one_pair_at_a_time(
    name: str, folder: Path, score: Callable[..., EvaluationResult], own: Sequence[Adapter]
):
    merged = merge(own, space="knots", rule="ties", scale=1.0, density=0.5)
    predictors = {"zero_shot": ZeroShot(), "merged": Merged(lambda _: merged), "finetuned": Finetuned(own)}
    used = {"zero_shot": [None] * 3, "merged": [merged] * 3, "finetuned": own}[name]
    result = score(predictors[name])
    expected = slow_predictions(folder, used, own)
    assert result.predictions["prediction"].tolist() == expected
    assert len(set(expected)) == 3
    labels = [int(label) for arrays in DATA.values() for label in arrays.labels]
    assert result.predictions["label"].tolist() == labels
    assert result.n.tolist() == list(COUNTS.values())
    for place, (task, rows) in enumerate(result.predictions.groupby("task", sort=False)):
        assert task == SUITE.task_names[place]
        assert rows["item"].tolist() == list(range(len(rows)))
        assert result.correct[place] == (rows.prediction == rows.label).sum()
        assert not rows.prediction.isin(SUITE.text_tasks[place].absent).any()
    assert (result.mode, result.modality, result.joint) == ("per_task", "language", None)
    assert result.predictions["joint_rank"].isna().all()


@pytest.mark.parametrize("budget", [1, 7, 100_000])
def test_predictions_do_not_depend_on_the_budget(
    budget: int, score: Callable[..., EvaluationResult], own: Sequence[Adapter]
):
    first = score(Finetuned(own), batch_size=budget).predictions
    assert first.equals(score(Finetuned(own)).predictions)


def test_bf16_agrees_but_for_close_calls(
    folder: Path, score: Callable[..., EvaluationResult], own: Sequence[Adapter]
):
    half = load_classifier(ClassifierSpec("tiny", str(folder)), dtype=torch.bfloat16)
    dense = Adapter("dense", {name: Dense(update.dense()) for name, update in own[0].updates.items()})
    for predictor in (Finetuned(own), Merged(dense)):
        exact, rounded = score(predictor).predictions, score(predictor, model=half).predictions
        assert (exact["prediction"] == rounded["prediction"]).mean() > 0.9
    assert half.dtype == torch.bfloat16


def test_the_model_computes_attention_afterwards_as_before(
    score: Callable[..., EvaluationResult], classifier: Classifier, own: Sequence[Adapter]
):
    before = classifier.model.config._attn_implementation
    score(Finetuned(own))
    assert classifier.model.config._attn_implementation == before != "eager"


def test_speed_counts_pairs_and_their_tokens(score: Callable[..., EvaluationResult]):
    speed = score(ZeroShot()).speed
    assert (speed.items, speed.unit) == (102, "pairs")
    assert speed.tokens == sum(len(arrays.tokens) for arrays in DATA.values())
    assert f"102 pairs in {speed.seconds:.1f} s" in str(speed)
    assert "tokens/s" in str(speed)


def test_a_merge_that_overflows_counts_as_wrong(
    score: Callable[..., EvaluationResult], own: Sequence[Adapter], caplog: pytest.LogCaptureFixture
):
    huge = Adapter("huge", {name: Dense(1e38 * u.dense()) for name, u in own[0].updates.items()})
    result = score(Merged(huge))
    assert result.unscored > 90
    assert result.correct.sum() <= 102 - result.unscored
    assert f"{result.unscored} items have scores that are not finite" in caplog.text


def test_mistakes_are_named(score: Callable[..., EvaluationResult], own: Sequence[Adapter], clip: Clip):
    with pytest.raises(KnotsError, match=r"eval=joint: suite 'tiny' is of language"):
        score(ZeroShot(), mode="joint")
    with pytest.raises(KnotsError, match=r"eval.protocol='reference' is for images.*precision=32"):
        score(ZeroShot(), protocol="reference")
    with pytest.raises(KnotsError, match="no ensemble"):
        score(Ensemble(own))
    with pytest.raises(KnotsError, match="no router"):
        score(Router(own))
    with pytest.raises(KnotsError, match="suite 'tiny' is of language, but the model takes images"):
        score(ZeroShot(), model=clip)
    with pytest.raises(KnotsError, match="suite 'tiny' is of vision, but the model takes sentences"):
        score(ZeroShot(), suite=tiny_suite())
    with pytest.raises(KnotsError, match="each task's own head and the model's tokenizer"):
        score(ZeroShot(), heads=None)
    with pytest.raises(KnotsError, match=r"task 'second': its head has shape \(2, 16\).* need \(3, 16\)"):
        score(ZeroShot(), heads=[torch.ones(3, 16), torch.ones(2, 16), torch.ones(3, 16)])
    with pytest.raises(KnotsError, match="unknown split of task 'first'"):
        score(ZeroShot(), split="tset")
    with pytest.raises(KnotsError, match="suite 'tiny' is of language, not of vision"):
        replace(SUITE).joint()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gpu_gives_the_cpus_predictions(
    dtype: torch.dtype, folder: Path, score: Callable[..., EvaluationResult], own: Sequence[Adapter]
):
    trainer = quiet_trainer({"accelerator": "gpu", "devices": 1})
    model = load_classifier(ClassifierSpec("tiny", str(folder)), dtype=dtype)
    expected, found = score(Finetuned(own)), score(Finetuned(own), model=model, trainer=trainer)
    same = (expected.predictions["prediction"] == found.predictions["prediction"]).mean()
    assert same == 1 if dtype == torch.float32 else same > 0.9
