"""A training that was stopped ends with the very tensors of one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file

from knots import interruption
from knots.errors import KnotsError
from knots.finetuning import finetune
from knots.finetuning.checkpoint import Checkpoints, WholeFiles, identity, training_folder
from knots.finetuning.module import Finetuning
from knots.finetuning.pictures import PictureLesson
from knots.finetuning.towers import LoraTower
from knots.suites.data import ImageArrays
from tests.finetuning.conftest import FULL, ORIGIN, PLAN, TRAINER
from tests.miniatures import tiny_arrays

ROOT = Path(__file__).resolve().parents[2]


class StoppedError(Exception):
    """Stands for a kill."""


def train(clip, task, splits, plan, place):
    return finetune(clip, task, splits, plan, place, TRAINER, origin=ORIGIN)


def tensors(place):
    return load_file(next(place.glob("*.safetensors")))


@contextmanager
def watched(stop=None):
    """The steps that are trained, as a list; the training raises before step `stop`."""
    steps, original = [], Finetuning.training_step

    def training_step(self, batch, number):
        if self.global_step == stop:
            raise StoppedError
        steps.append(self.global_step)
        return original(self, batch, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Finetuning, "training_step", training_step)
        yield steps


@pytest.mark.parametrize("stop", [4, 7, 11])
@pytest.mark.parametrize("plan", [PLAN, FULL, replace(PLAN, gradient_checkpointing=True)])
def test_a_stopped_training_goes_on_to_the_same_end(clip, task, splits, tmp_path, plan, stop):
    with watched(stop), pytest.raises(StoppedError):
        train(clip, task, splits, plan, tmp_path / "stopped")
    assert [path.name for path in tmp_path.iterdir()] == [".stopped.training"]
    with watched() as steps:
        found = train(clip, task, splits, plan, tmp_path / "stopped")
    assert steps == list(range(4 * (stop // 4), 12))
    assert found == train(clip, task, splits, plan, tmp_path / "whole")
    whole, resumed = tensors(tmp_path / "whole"), tensors(tmp_path / "stopped")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped", "whole"]


@pytest.mark.parametrize("stop", [0, 2, 3, 6, 10])
@pytest.mark.parametrize("repeats", [1, 2])
def test_a_training_that_is_told_to_stop_goes_on_from_its_next_step(
    clip, task, splits, tmp_path, monkeypatch, stop, repeats
):
    trainer, original = {**TRAINER, "accumulate_grad_batches": repeats}, Finetuning.training_step

    def run(name):
        return finetune(clip, task, splits, PLAN, tmp_path / name, trainer, origin=ORIGIN)

    def training_step(self, batch, number):
        if self.global_step == stop:
            interruption.ask("SIGUSR2")
        return original(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(Finetuning, "training_step", training_step)
        with pytest.raises(interruption.Interrupted, match="SIGUSR2"):
            run("stopped")
    interruption.forget()
    with watched() as steps:
        found = run("stopped")
    assert sorted(set(steps)) == list(range(stop + 1, 12))
    assert found == run("whole")
    whole, resumed = tensors(tmp_path / "whole"), tensors(tmp_path / "stopped")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_steps_of_several_batches_go_on_with_the_right_batch(clip, task, splits, tmp_path):
    trainer = {**TRAINER, "accumulate_grad_batches": 2}
    with watched(7), pytest.raises(StoppedError):
        finetune(clip, task, splits, PLAN, tmp_path / "a", trainer, origin=ORIGIN)
    for name in "ab":
        finetune(clip, task, splits, PLAN, tmp_path / name, trainer, origin=ORIGIN)
    whole, resumed = tensors(tmp_path / "b"), tensors(tmp_path / "a")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_a_training_out_of_patience_is_only_saved(clip, task, splits, tmp_path, monkeypatch):
    plan = replace(PLAN, patience=1, min_delta=1.0, steps=40)
    monkeypatch.setattr(LoraTower, "save", Mock(side_effect=StoppedError))
    with pytest.raises(StoppedError):
        train(clip, task, splits, plan, tmp_path / "stopped")
    monkeypatch.undo()
    with watched() as steps:
        found = train(clip, task, splits, plan, tmp_path / "stopped")
    assert steps == []
    assert found == train(clip, task, splits, plan, tmp_path / "whole")


@pytest.fixture
def left(clip, task, splits, tmp_path):
    """The folder of a training that was stopped after step 4."""
    with watched(6), pytest.raises(StoppedError):
        train(clip, task, splits, PLAN, tmp_path / "a")
    return training_folder(tmp_path / "a")


def test_a_checkpoint_holds_only_what_training_needs(left):
    assert [path.name for path in left.iterdir()] == ["last.ckpt"]
    found = torch.load(left / "last.ckpt", weights_only=True)
    assert found["state_dict"]
    assert all("lora_" in name for name in found["state_dict"])
    assert found["global_step"] == 4
    assert set(found["progress"]) == {"accuracy", "best", "mark", "stale", "zero_shot"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 1e-3}, "finetune.learning_rate"),
        ({"steps": 16, "seed": 1}, "finetune.steps, finetune.seed"),
    ],
)
def test_a_checkpoint_of_another_plan_is_not_used(left, clip, task, splits, caplog, tmp_path, change, named):
    plan = replace(PLAN, **change)
    found = train(clip, task, splits, plan, tmp_path / "a")
    assert f"is of another training (it differs in {named}); starting anew" in caplog.text
    assert found == train(clip, task, splits, plan, tmp_path / "fresh")


def test_a_checkpoint_of_other_data_or_another_base_is_not_used(left, clip, task, splits, caplog):
    def found(data=splits, task=task):
        return Checkpoints(left, identity(task.name, PictureLesson(clip, task, data, PLAN), PLAN)).find()

    assert found() is not None
    other = {**splits, "train": ImageArrays(*tiny_arrays(48, 3, 9))}
    for changed, named in (
        ({"data": other}, "train data"),
        ({"task": replace(task, templates=("a {} texture",))}, "base"),
    ):
        assert found(**changed) is None
        assert f"(it differs in {named})" in caplog.text


def test_a_damaged_checkpoint_is_not_used(left, clip, task, splits, caplog, tmp_path):
    path = left / "last.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    found = train(clip, task, splits, PLAN, tmp_path / "a")
    assert "is damaged" in caplog.text
    assert found == train(clip, task, splits, PLAN, tmp_path / "fresh")


KILLED = """
import sys, json
from pathlib import Path
from knots.finetuning import finetune, parse_plan
from knots.models.clip import ClipSpec, load_clip
from knots.suites.data import ImageArrays
from tests.finetuning.conftest import ORIGIN, TRAINER
from tests.miniatures import tiny_arrays, tiny_suite
base, place, plan = sys.argv[1:]
splits = {s: ImageArrays(*tiny_arrays(48, 3, n)) for n, s in enumerate(("train", "validation"))}
clip = load_clip(ClipSpec("tiny", base))
plan, task = parse_plan(json.loads(plan)), tiny_suite().tasks[0]
finetune(clip, task, splits, plan, Path(place), TRAINER, origin=ORIGIN)
"""


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(left, monkeypatch):
    before = (left / "last.ckpt").read_bytes()

    def save(content, file):
        file.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="the disk is full"):
        WholeFiles().save_checkpoint({}, left / "last.ckpt")
    assert [path.name for path in left.iterdir()] == ["last.ckpt"]
    assert (left / "last.ckpt").read_bytes() == before


@pytest.mark.slow
def test_a_killed_process_is_gone_on_with(folder, clip, task, splits, tmp_path):
    plan = replace(PLAN, steps=100, patience=1000)
    command = [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "a"), json.dumps(asdict(plan))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, cwd=ROOT)
    deadline = time.monotonic() + 120
    checkpoint = training_folder(tmp_path / "a") / "last.ckpt"
    while not checkpoint.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "a").exists()
    train(clip, task, splits, plan, tmp_path / "a")
    train(clip, task, splits, plan, tmp_path / "whole")
    whole, resumed = tensors(tmp_path / "whole"), tensors(tmp_path / "a")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "whole"]


def test_a_precision_that_the_device_lacks_is_refused(clip, task, splits, tmp_path):
    plan = replace(PLAN, precision="16-mixed")
    with (
        pytest.warns(UserWarning, match="not supported on CPU"),
        pytest.raises(KnotsError, match=r"16-mixed is not for this device; it can do bf16-mixed"),
    ):
        train(clip, task, splits, plan, tmp_path / "a")


def test_processes_that_cannot_share_the_batches_evenly_are_refused(clip, task, splits, tmp_path):
    trainer, plan = {**TRAINER, "devices": 2}, replace(PLAN, batch_size=15)
    with pytest.raises(KnotsError, match="batch_size=15 cannot be shared out evenly among 2 processes"):
        finetune(clip, task, splits, plan, tmp_path / "a", trainer, origin=ORIGIN)
