"""Whole evaluations of the tiny CLIP, recounted by slow and independent code."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import lightning as L
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from knots.adapters import Adapter
from knots.errors import KnotsError
from knots.evaluation import Ensemble, EvaluationResult, Finetuned, Merged, Predictor, Speed, ZeroShot
from knots.evaluation.batches import Batch
from knots.evaluation.module import SuiteEvaluation
from knots.models.attach import fold
from knots.models.clip import Clip
from knots.pipelines.trainers import quiet_trainer
from knots.processes import cluster_environment
from knots.suites.data import ImageArrays
from knots.suites.tasks import ImageTask, Suite
from knots.updates import Dense, LowRank
from tests.evaluation.conftest import Score
from tests.miniatures import MODULES, draw_noise, tiny_suite

# Lightning's pytree code meets a class that PyTorch 2.15 is about to drop.

PREDICTORS = ("zero_shot", "merged", "merged later", "ensemble", "finetuned")


def predictor(name: str, adapters: Sequence[Adapter]) -> Predictor:
    return {
        "zero_shot": ZeroShot(),
        "merged": Merged(adapters[1]),
        "merged later": Merged(lambda _: adapters[1]),
        "ensemble": Ensemble(adapters),
        "finetuned": Finetuned(adapters),
    }[name]


def slow_scores(clip: Clip, used: Sequence[Adapter | None], images: torch.Tensor, prompts: list[list[str]]):
    """The largest cosine over the models, of one image after the other, each model folded on its own."""
    text = torch.stack([F.normalize(clip.encode_text(p).mean(dim=0), dim=0) for p in prompts])
    every = []
    for adapter in used:
        with fold(clip.tower, adapter or Adapter("none", {})), torch.no_grad():
            every.append(torch.stack([clip(image[None])[0] @ text.T for image in images]))
    return torch.stack(every).amax(dim=0)


def slow_table(clip: Clip, name: str, adapters: Sequence[Adapter]) -> pd.DataFrame:
    """Every prediction and rank, from loops over tasks, classes and images."""
    suite = tiny_suite()
    union = list(dict.fromkeys((c, task.templates) for task in suite.tasks for c in task.classes))
    prompts = [[template.format(c) for template in templates] for c, templates in union]
    rows = []
    for position, task in enumerate(suite.tasks):
        used = {"zero_shot": [None], "ensemble": adapters, "finetuned": [adapters[position]]}.get(
            name, [adapters[1]]
        )
        arrays = draw_noise(task, "test")
        images = torch.from_numpy(arrays.images)
        own = slow_scores(clip, used, images, [[t.format(c) for t in task.templates] for c in task.classes])
        joint = slow_scores(clip, used, images, prompts)
        for item, label in enumerate(arrays.labels.tolist()):
            joint_label = union.index((task.classes[label], task.templates))
            rank = 1 + sum(bool(s > joint[item, joint_label]) for s in joint[item])
            best = int(joint[item].argmax())
            rows.append((task.name, item, label, int(own[item].argmax()), joint_label, best, rank))
    columns = ["task", "item", "label", "prediction", "joint_label", "joint_prediction", "joint_rank"]
    return pd.DataFrame(rows, columns=columns)


def check_counts(result: EvaluationResult) -> None:
    """Recount every number of the result from its own table."""
    suite, table, joint = tiny_suite(), result.predictions, result.joint
    assert result.correct is not None
    assert joint is not None
    classes = list(dict.fromkeys((c, task.templates) for task in suite.tasks for c in task.classes))
    owners = [{t.name for t in suite.tasks if n in t.classes and p == t.templates} for n, p in classes]
    assert joint.classes == len(classes)
    for i, (name, rows) in enumerate(table.groupby("task", sort=False)):
        assert name == suite.tasks[i].name
        assert result.n[i] == len(rows)
        assert result.correct[i] == (rows.prediction == rows.label).sum()
        assert joint.hits[i].tolist() == [(rows.joint_rank <= k).sum() for k in (1, 3, 5, 10)]
        named = [
            classes[p][0] == classes[t][0]
            for p, t in zip(rows.joint_prediction, rows.joint_label, strict=True)
        ]
        assert joint.hits_dedup[i, 0] == sum(named)
        wrong = rows[rows.joint_rank > 1]
        assert joint.errors[i] == len(wrong)
        for j, other in enumerate(suite.tasks):
            belong = [
                other.name in owners[p] and (other.name == name or name not in owners[p])
                for p in wrong.joint_prediction
            ]
            assert joint.leaks[i, j] == sum(belong)


@pytest.mark.parametrize("name", PREDICTORS)
def test_every_number_is_what_slow_code_finds(
    name: str, clip: Clip, score: Score, adapters: Sequence[Adapter]
):
    result = score(predictor(name, adapters))
    assert result.kind == name.split()[0]
    assert (result.adapter is adapters[1]) == name.startswith("merged")
    assert result.predictions["task"].tolist() == ["numbers"] * 21 + ["patterns"] * 34 + ["digits"] * 13
    expected = slow_table(clip, name, adapters)
    pd.testing.assert_frame_equal(result.predictions, expected, check_dtype=False)
    check_counts(result)
    # The tiny model tells its classes apart, or the test above would show nothing.
    assert expected["joint_prediction"].nunique() > 2


def test_predictors_differ(score: Score, adapters: Sequence[Adapter]):
    tables = [score(predictor(name, adapters)).predictions for name in PREDICTORS]
    ranks = {tuple(table["joint_rank"]) for table in tables}
    assert len(ranks) == 4  # merged and merged later are one


def test_finetuned_is_the_base_with_each_tasks_own_adapter(score: Score, adapters: Sequence[Adapter]):
    result = score(Finetuned(adapters))
    for position, task in enumerate(tiny_suite().task_names):
        alone = score(Merged(adapters[position])).predictions
        pd.testing.assert_frame_equal(
            result.predictions[result.predictions.task == task], alone[alone.task == task]
        )


def test_an_ensemble_of_one_is_its_adapter(score: Score, adapters: Sequence[Adapter]):
    pd.testing.assert_frame_equal(
        score(Ensemble(adapters[:1])).predictions, score(Merged(adapters[0])).predictions
    )


@pytest.mark.parametrize("name", PREDICTORS)
def test_the_base_is_the_same_afterwards(name: str, clip: Clip, score: Score, adapters: Sequence[Adapter]):
    before = [parameter.clone() for parameter in clip.parameters()]
    first = score(predictor(name, adapters)).predictions
    assert all(torch.equal(a, b) for a, b in zip(before, clip.parameters(), strict=True))
    assert not any(module._forward_hooks for module in clip.modules())
    pd.testing.assert_frame_equal(score(predictor(name, adapters)).predictions, first)


def test_the_base_is_the_same_after_a_failure(clip: Clip, score: Score, adapters: Sequence[Adapter]):
    before = [parameter.clone() for parameter in clip.parameters()]
    small = replace(tiny_suite().tasks[2], classes=("one",), sizes={"test": 0})
    suite = replace(tiny_suite(), tasks=(*tiny_suite().tasks[:2], small))
    bad = Adapter("bad", {MODULES[0]: LowRank(torch.ones(3, 1), torch.ones(1, 3))})
    with pytest.raises(KnotsError, match=r"adapter 'bad'.*shape"):
        score(Finetuned([adapters[0], adapters[1], bad]), suite=suite)
    assert all(torch.equal(a, b) for a, b in zip(before, clip.parameters(), strict=True))


@pytest.mark.parametrize("mode", ["per_task", "joint"])
def test_modes_leave_out_what_they_do_not_score(mode: str, score: Score):
    whole, part = score(ZeroShot()), score(ZeroShot(), mode=mode)
    kept = ["task", "item", "label"]
    kept += ["prediction"] if mode == "per_task" else ["joint_label", "joint_prediction", "joint_rank"]
    pd.testing.assert_frame_equal(part.predictions[kept], whole.predictions[kept])
    assert part.predictions.drop(columns=kept).isna().all().all()
    assert list(part.predictions.columns) == list(whole.predictions.columns)
    assert (part.correct is None) == (mode == "joint")
    assert (part.joint is None) == (mode == "per_task")
    assert (part.accuracies is None) == (mode == "joint")


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_numbers_do_not_depend_on_the_batch_size(batch_size: int, score: Score, adapters: Sequence[Adapter]):
    expected = score(Ensemble(adapters)).predictions
    pd.testing.assert_frame_equal(score(Ensemble(adapters), batch_size=batch_size).predictions, expected)


def test_merging_happens_on_the_trainers_device(
    score: Score, adapters: Sequence[Adapter], trainer: L.Trainer
):
    devices = []

    def merge(device: torch.device) -> Adapter:
        devices.append(device)
        return adapters[0]

    score(Merged(merge), trainer=trainer)
    assert devices == [trainer.strategy.root_device]


def slow_half_precision(clip: Clip, adapter: Adapter, suite: Suite) -> list[int]:
    """Predictions by float16 autocast and logits times 100, of all of a task's images at once."""
    predictions = []
    for task in suite.tasks:
        prompts = [[template.format(c) for template in task.templates] for c in task.classes]
        text = torch.stack([F.normalize(clip.encode_text(p).mean(dim=0), dim=0) for p in prompts])
        images = torch.from_numpy(draw_noise(task, "test").images)
        with fold(clip.tower, adapter), torch.no_grad(), torch.autocast("cpu", dtype=torch.float16):
            logits = clip(images).float() @ (100 * text).T
        assert logits.dtype == torch.float16
        predictions += logits.argmax(dim=1).tolist()
    return predictions


def test_the_reference_protocol_on_the_cpu_is_half_precision_per_task_and_says_so(
    clip: Clip, score: Score, adapters: Sequence[Adapter]
):
    # Enough images that some of them fall to another class by rounding.
    suite = tiny_suite({"numbers": 900, "patterns": 900, "digits": 900})
    plain, reference = (
        score(Merged(adapters[1]), protocol=protocol, suite=suite, batch_size=256)
        for protocol in ("float32", "reference")
    )
    expected = slow_half_precision(clip, adapters[1], suite)
    same = (reference.predictions["prediction"] == expected).mean()
    assert same > 0.999
    assert 0.9 < (reference.predictions["prediction"] == plain.predictions["prediction"]).mean() < same
    joint = ["joint_prediction", "joint_rank"]
    pd.testing.assert_frame_equal(plain.predictions[joint], reference.predictions[joint])
    assert plain.notes == ()
    assert reference.notes == ("tasks were scored in the half precision of the CPU, not of a GPU",)


@pytest.mark.parametrize("name", ["zero_shot", "ensemble"])
def test_speed_counts_every_image_once(name: str, score: Score, adapters: Sequence[Adapter]):
    started = time.perf_counter()
    speed = score(predictor(name, adapters)).speed
    assert speed is not None
    assert speed.items == 68
    assert 0 < speed.waiting_seconds < speed.seconds < time.perf_counter() - started


def test_speed_is_one_line():
    line = "30,600 images in 12.3 s (2,488 images/s, 3 % of it waiting for data)"
    assert str(Speed(30_600, 12.3, 0.37)) == line
    assert str(Speed(0, 0.0, 0.0)) == "0 images in 0.0 s (0 images/s, 0 % of it waiting for data)"


def test_a_split_may_hold_fewer_items_than_the_suite_promises(score: Score, monkeypatch: pytest.MonkeyPatch):
    def shortened(task: ImageTask, split: str, *_: object) -> ImageArrays:
        arrays = draw_noise(task, split)
        return ImageArrays(arrays.images[2:], arrays.labels[2:])

    monkeypatch.setattr("knots.evaluation.module.load_split", shortened)
    result = score(ZeroShot())
    assert result.n.tolist() == [19, 32, 11]
    assert len(result.predictions) == result.speed.items == 62
    assert result.accuracies == pytest.approx(result.correct / result.n)


@pytest.mark.parametrize("where", ["scoring", "reading"])
def test_no_thread_is_left_after_a_failure(where: str, score: Score, monkeypatch: pytest.MonkeyPatch):
    def failing(*_: object, **__: object) -> None:
        raise OSError("the disk is gone")

    name = {
        "scoring": "knots.evaluation.images.class_scores",
        "reading": "knots.evaluation.batches.copied",
    }[where]
    monkeypatch.setattr(name, failing)
    with pytest.raises(OSError, match="the disk is gone"):
        score(ZeroShot(), batch_size=1)
    assert not [t for t in threading.enumerate() if t.name.startswith("knots-batches")]


def test_tasks_without_items_have_no_accuracy(score: Score):
    result = score(ZeroShot(), suite=tiny_suite({"numbers": 0, "patterns": 3, "digits": 1}))
    assert result.n.tolist() == [0, 3, 1]
    assert pd.isna(result.accuracies[0])
    assert len(result.predictions) == 4


def test_a_suite_of_one_task(score: Score):
    result = score(ZeroShot(), suite=tiny_suite({"patterns": 9}))
    assert result.n.tolist() == [9]
    assert result.joint is not None
    assert result.joint.leaks.shape == (1, 1)
    assert result.joint.leaks[0, 0] == result.joint.errors[0]


def test_a_merge_that_overflows_counts_as_wrong(
    score: Score, adapters: Sequence[Adapter], caplog: pytest.LogCaptureFixture
):
    huge = Adapter("huge", {name: Dense(1e30 * u.dense()) for name, u in adapters[0].updates.items()})
    result = score(Merged(huge))
    assert result.unscored == 68
    assert result.correct.sum() == 0
    assert result.joint.hits.sum() == 0
    assert result.joint.leaks.sum() == 0
    assert result.joint.errors.sum() == 68
    assert "68 items have scores that are not finite" in caplog.text


def test_mistakes_are_named(score: Score, adapters: Sequence[Adapter]):
    with pytest.raises(KnotsError, match="unknown evaluation mode 'pertask'; did you mean 'per_task'"):
        score(ZeroShot(), mode="pertask")
    with pytest.raises(KnotsError, match="unknown evaluation protocol 'fp16'"):
        score(ZeroShot(), protocol="fp16")
    with pytest.raises(KnotsError, match=r"unknown split of task 'numbers'.*'validation'"):
        score(ZeroShot(), split="validation")
    with pytest.raises(KnotsError, match="suite 'tiny' is of language"):
        score(ZeroShot(), suite=replace(tiny_suite(), modality="language"))
    with pytest.raises(KnotsError, match="3 tasks need as many adapters, got 1"):
        score(Finetuned(adapters[:1]))
    with pytest.raises(KnotsError, match="at least one adapter"):
        score(Ensemble([]))
    with pytest.raises(KnotsError, match="batch size must be at least 1, got 0"):
        score(ZeroShot(), batch_size=0)
    half = L.Trainer(
        accelerator="cpu",
        devices=1,
        precision="bf16-true",
        plugins=[cluster_environment()],
        logger=False,
        enable_checkpointing=False,
    )
    with pytest.raises(KnotsError, match="the trainer has precision 'bf16-true'"):
        score(ZeroShot(), trainer=half)


@pytest.mark.gpu
@pytest.mark.parametrize("name", PREDICTORS)
def test_the_gpu_gives_the_cpus_numbers(name: str, score: Score, adapters: Sequence[Adapter]):
    on_gpu = score(predictor(name, adapters), trainer=quiet_trainer({"accelerator": "gpu", "devices": 1}))
    on_cpu = score(predictor(name, adapters))
    # Rounding differs, so an item on the edge may fall to the other side.
    for column in ("prediction", "joint_prediction", "joint_rank"):
        same = (on_gpu.predictions[column] == on_cpu.predictions[column]).mean()
        assert same > 0.95


@pytest.mark.gpu
def test_the_reference_protocol_scores_in_half_precision_on_the_gpu(score: Score):
    results = [
        score(ZeroShot(), protocol=protocol, trainer=quiet_trainer({"accelerator": "gpu", "devices": 1}))
        for protocol in ("float32", "reference")
    ]
    assert results[1].notes == ()
    joint = ["joint_prediction", "joint_rank"]
    pd.testing.assert_frame_equal(results[0].predictions[joint], results[1].predictions[joint])
    assert (results[0].predictions["prediction"] == results[1].predictions["prediction"]).mean() > 0.9


@pytest.mark.gpu
@pytest.mark.parametrize("protocol", ["float32", "reference"])
def test_scoring_reads_nothing_back_from_the_gpu(
    protocol: str, score: Score, monkeypatch: pytest.MonkeyPatch
):
    step = SuiteEvaluation.test_step

    def watched(self: SuiteEvaluation, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(self, batch, batch_idx, dataloader_idx)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(SuiteEvaluation, "test_step", watched)
    trainer = quiet_trainer({"accelerator": "gpu", "devices": 1})
    assert score(ZeroShot(), protocol=protocol, trainer=trainer).n.sum() == 68
