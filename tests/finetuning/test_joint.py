"""One adapter for several tasks: equal shares, each task among its own classes, bit for bit after a kill."""

from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel

from knots.adapters import load_adapter
from knots.errors import KnotsError
from knots.finetuning import finetune, finetune_jointly, finetune_tasks, parse_plan
from knots.finetuning.joint import JointBatches, JointLesson, JointSlices, task_order
from knots.finetuning.pictures import PictureLesson
from knots.models.clip import ClipSpec
from knots.models.heads import class_features
from knots.suites import data
from knots.suites.data import ImageArrays
from tests.finetuning.conftest import FULL, ORIGIN, PAIRS, PLAN, TRAINER
from tests.finetuning.test_checkpoint import StoppedError, tensors, watched
from tests.language import tiny_text_arrays, tiny_text_task
from tests.miniatures import NOISE, tiny_arrays, tiny_suite

TASKS = tiny_suite().tasks[:2]


@pytest.fixture(scope="module")
def several():
    """Splits of two tasks with three and four classes, of unequal sizes."""
    return {
        task.name: {
            split: ImageArrays(*tiny_arrays(count - 20 * number, len(task.classes), 7 * number + count))
            for split, count in (("train", 64), ("validation", 51))
        }
        for number, task in enumerate(TASKS)
    }


def train(clip, several, place, plan=PLAN, tasks=TASKS, **options):
    return finetune_jointly(clip, tasks, several, plan, place, {**TRAINER, **options}, origin=ORIGIN)


@given(tasks=st.integers(1, 9), seed=st.integers(0, 99), rounds=st.integers(1, 6))
def test_tasks_have_equal_shares_after_any_number_of_rounds(tasks, seed, rounds):
    order = list(islice(task_order(tasks, seed), tasks * rounds))
    for at in range(0, len(order), tasks):
        assert sorted(order[at : at + tasks]) == list(range(tasks))
    assert order == list(islice(task_order(tasks, seed), tasks * rounds))


def test_the_order_of_the_tasks_is_random_and_the_seed_s():
    first, second = (list(islice(task_order(4, seed), 80)) for seed in (0, 1))
    assert first != second
    assert len({tuple(first[at : at + 4]) for at in range(0, 80, 4)}) > 5


@pytest.mark.parametrize("start", [0, 1, 5, 8])
def test_passing_batches_over_gives_those_behind_them(clip, several, start):
    lessons = [PictureLesson(clip, task, several[task.name], PLAN) for task in TASKS]
    whole = list(islice(JointBatches(lessons, 3), 12))[start:]
    for batch, later in zip(whole, JointBatches(lessons, 3, start), strict=False):
        assert batch[0] == later[0]
        assert all(torch.equal(a, b) for a, b in zip(batch[1:], later[1:], strict=True))
    assert Counter(batch[0] for batch in islice(JointBatches(lessons, 3), 12)) == {0: 6, 1: 6}


def test_every_validation_batch_comes_once_behind_its_task():
    parts = [[("a",), ("b",)], [], [("c",)]]
    found = JointSlices(parts)
    assert [found[number] for number in range(len(found))] == [(0, "a"), (0, "b"), (2, "c")]


def test_a_batch_is_told_apart_among_the_classes_of_its_own_task(clip, several):
    lessons = {task.name: PictureLesson(clip, task, several[task.name], PLAN) for task in TASKS}
    joint = JointLesson(lessons, PLAN)
    pictures = torch.tensor(several["numbers"]["train"].images[:5])
    for number, (task, lesson) in enumerate(zip(TASKS, lessons.values(), strict=True)):
        logits = joint.network(number, pictures)
        assert logits.shape == (5, len(task.classes))
        assert torch.equal(logits, lesson.network(pictures))


def test_of_one_task_it_is_the_training_of_that_task(clip, several, tmp_path):
    single = finetune(clip, TASKS[0], several["numbers"], PLAN, tmp_path / "a", TRAINER, origin=ORIGIN)
    assert train(clip, several, tmp_path / "b", tasks=TASKS[:1]) == single
    alone, joint = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert alone.keys() == joint.keys()
    assert all(torch.equal(tensor, joint[name]) for name, tensor in alone.items())


@pytest.mark.parametrize("stop", [4, 7, 11])
@pytest.mark.parametrize("plan", [PLAN, FULL], ids=["lora", "full"])
def test_a_stopped_training_goes_on_to_the_same_end(clip, several, tmp_path, plan, stop):
    with watched(stop), pytest.raises(StoppedError):
        train(clip, several, tmp_path / "stopped", plan)
    assert [path.name for path in tmp_path.iterdir()] == [".stopped.training"]
    with watched() as steps:
        found = train(clip, several, tmp_path / "stopped", plan)
    assert steps == list(range(4 * (stop // 4), 12))
    assert found == train(clip, several, tmp_path / "whole", plan)
    whole, resumed = tensors(tmp_path / "whole"), tensors(tmp_path / "stopped")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_a_checkpoint_over_other_tasks_or_data_is_not_used(clip, several, tmp_path, caplog):
    with watched(6), pytest.raises(StoppedError):
        train(clip, several, tmp_path / "a")
    other = ImageArrays(*tiny_arrays(44, 4, 99))
    train(clip, {**several, "patterns": {**several["patterns"], "train": other}}, tmp_path / "a")
    assert "(it differs in patterns train data); starting anew" in caplog.text


def test_the_accuracy_is_the_mean_over_tasks_of_what_was_saved(clip, several, tmp_path):
    found = train(clip, several, tmp_path / "a")
    tower = PeftModel.from_pretrained(clip.tower, tmp_path / "a")
    accuracies = []
    try:
        for task in TASKS:
            heads = class_features(clip.encode_text, task.classes, task.templates)
            split = several[task.name]["validation"]
            with torch.no_grad():
                right = (clip(torch.tensor(split.images)) @ heads.T).argmax(dim=1).numpy() == split.labels
            accuracies.append(100 * right.mean())
    finally:
        tower.unload()
    # Half precision of the saved file may turn a picture.
    assert found["finetuned"] == pytest.approx(np.mean(accuracies), abs=100 / 31)


def test_one_adapter_learns_tasks_that_ask_for_different_things(clip, tmp_path):
    """One bright colour for the first task; for the second, one that is absent, or none."""
    made = {}
    for task, colours in zip(
        TASKS, (np.eye(3), np.concatenate([1 - np.eye(3), np.zeros((1, 3))])), strict=True
    ):
        labels = np.arange(96) % len(task.classes)
        colour = (20 + 210 * colours[labels]).astype(np.uint8)
        images = np.broadcast_to(colour[:, None, None], (96, 32, 32, 3)).copy()
        made[task.name] = dict.fromkeys(("train", "validation"), ImageArrays(images, labels))
    plan = replace(PLAN, steps=120, validate_every=40, dropout=0.0, rank=4)
    found = train(clip, made, tmp_path / "a", plan)
    assert found["finetuned"] > max(90.0, found["zero_shot"])


def test_what_is_saved_is_an_adapter_like_any_other_with_a_card(clip, several, tmp_path):
    found = train(clip, several, tmp_path / "multitask")
    adapter = load_adapter(tmp_path / "multitask")
    assert {update.rank for update in adapter.updates.values()} == {2}
    card = (tmp_path / "multitask" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "owner/tiny-clip"
    assert parse_plan(yaml.safe_load(card.split("```yaml")[1].split("```")[0])) == PLAN
    for text in (
        "# multitask: LoRA adapter of the vision tower of tiny\n",
        "one adapter for 2 tasks jointly, each with its own classes: `numbers`, `patterns`",
        "train numbers 64 pictures; patterns 44 pictures, validation numbers 51 pictures; ",
        f"{found['finetuned']:.2f} %",
        "both are means over the 2 tasks",
        "The test split was not used",
    ):
        assert text in card
    assert str(tmp_path) not in card


def test_the_tasks_of_a_suite_jointly_and_once(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(data, "SOURCES", {**data.SOURCES, "noise": NOISE})
    made = tiny_suite(kind="noise")
    tasks = tuple(replace(task, sizes={"train": 32, "validation": 16}) for task in made.tasks)

    def run(wanted):
        options = {"cache_dir": tmp_path / "cache", "force": False, "multitask": True}
        plan, spec = replace(PLAN, steps=4), ClipSpec("tiny", str(folder))
        suite = replace(made, tasks=tasks)
        return dict(finetune_tasks(spec, suite, wanted, plan, tmp_path / "out", TRAINER, **options))

    assert set(run(["digits", "numbers"])["multitask"]) == {"zero_shot", "finetuned"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["multitask"]
    assert run("all") == {"multitask": None}
    assert "2 tasks jointly" in (tmp_path / "out" / "multitask" / "README.md").read_text()


def test_tasks_of_sentences_learn_one_head_together(classifier, tmp_path):
    """Saved as any adapter with its head; each task keeps its own absent classes."""
    texts = {
        name: {split: tiny_text_arrays(24, seed, classes=(0, 2)) for split in ("train", "validation")}
        for seed, name in enumerate("ab")
    }
    tasks = [tiny_text_task(name) for name in texts]
    plan = replace(PAIRS, steps=4, validate_every=2)
    found = train(classifier, texts, tmp_path / "a", plan, tasks)
    assert set(found) == {"untrained", "finetuned"}
    adapter = load_adapter(tmp_path / "a", name="multitask")
    assert adapter.heads["score.weight"].shape[0] == 3
    assert "2 tasks jointly" in (tmp_path / "a" / "README.md").read_text()


def test_what_cannot_be_learnt_jointly_is_refused(clip, classifier, tmp_path):
    texts = {split: tiny_text_arrays(12, 0) for split in ("train", "validation")}
    two = replace(tiny_text_task("b"), classes=("yes", "no"), absent=())
    with pytest.raises(KnotsError, match="numbers of classes: a has 3, b has 2"):
        train(classifier, {"a": texts, "b": texts}, tmp_path / "a", PAIRS, [tiny_text_task("a"), two])
    with pytest.raises(KnotsError, match="at least one task is needed"):
        train(clip, {}, tmp_path / "a", tasks=[])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
def test_it_trains_on_a_gpu(clip, several, tmp_path):
    assert train(clip, several, tmp_path / "a", accelerator="gpu", devices=1)["finetuned"] >= 0
