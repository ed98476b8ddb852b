"""A few steps make an adapter that PEFT loads; all start from the same A; the base is given back."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import CLIPModel

from knots.adapters import load_adapter
from knots.errors import KnotsError
from knots.finetuning import finetune, finetune_tasks
from knots.models.clip import ClipSpec, load_clip
from knots.models.heads import class_features
from knots.suites import data
from knots.suites.data import ImageArrays
from tests.finetuning.conftest import ORIGIN, PLAN, TRAINER
from tests.miniatures import NOISE, tiny_suite


@pytest.fixture(scope="module")
def trained(clip, task, splits, tmp_path_factory):
    place = tmp_path_factory.mktemp("finetune") / task.name
    return place, finetune(clip, task, splits, PLAN, place, TRAINER, origin=ORIGIN)


def weights(place):
    return load_file(place / "adapter_model.safetensors")


def test_the_adapter_is_one_that_this_project_and_peft_load(trained, folder):
    place, _ = trained
    adapter = load_adapter(str(place))
    assert len(adapter.updates) == 4
    assert {update.rank for update in adapter.updates.values()} == {2}
    tower = PeftModel.from_pretrained(CLIPModel.from_pretrained(folder).vision_model, place)
    assert any(parameter.abs().sum() > 0 for name, parameter in tower.named_parameters() if "lora_B" in name)


def test_the_file_is_half_precision_and_names_no_machine(trained):
    place, _ = trained
    assert {tensor.dtype for tensor in weights(place).values()} == {torch.float16}
    config = json.loads((place / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None
    assert config["r"] == config["lora_alpha"] == 2
    assert config["target_modules"] == ["out_proj", "q_proj"]
    assert sorted(path.name for path in place.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_the_same_seed_trains_the_same_adapter(trained, clip, task, splits, tmp_path):
    place, accuracy = trained
    assert finetune(clip, task, splits, PLAN, tmp_path / "again", TRAINER, origin=ORIGIN) == accuracy
    again = weights(tmp_path / "again")
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights(place).items())
    finetune(clip, task, splits, replace(PLAN, seed=1), tmp_path / "other", TRAINER, origin=ORIGIN)
    other = weights(tmp_path / "other")
    assert all(
        not torch.equal(tensor, other[name]) for name, tensor in weights(place).items() if "lora_A" in name
    )


def test_adapters_of_all_tasks_start_from_the_same_matrix(clip, splits, tmp_path):
    still = replace(PLAN, learning_rate=0.0, weight_decay=0.0)
    for task in tiny_suite().tasks[:2]:
        finetune(clip, task, splits, still, tmp_path / task.name, TRAINER, origin=ORIGIN)
    first, second = weights(tmp_path / "numbers"), weights(tmp_path / "patterns")
    down = [name for name in first if "lora_A" in name]
    assert down
    assert all(torch.equal(first[name], second[name]) for name in down)


def test_the_base_is_given_back_as_it_was(clip, folder, trained):
    fresh = load_clip(ClipSpec("tiny", str(folder)))
    state = clip.state_dict()
    assert state.keys() == fresh.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in fresh.state_dict().items())
    assert not clip.training
    assert not any(parameter.requires_grad for parameter in clip.parameters())


def test_training_learns_what_can_be_learnt(clip, task, tmp_path):
    labels = np.arange(96) % 3
    images = np.full((96, 32, 32, 3), 20, dtype=np.uint8)
    images[np.arange(96), :, :, labels] = 230
    data = {split: ImageArrays(images, labels) for split in ("train", "validation")}
    found = finetune(
        clip, task, data, replace(PLAN, steps=60, validate_every=20), tmp_path / "a", TRAINER, origin=ORIGIN
    )
    assert found["finetuned"] > max(90.0, found["zero_shot"])


def test_what_is_saved_is_the_best_of_the_validations(clip, task, splits, tmp_path):
    found = finetune(
        clip, task, splits, replace(PLAN, patience=1, steps=40), tmp_path / "a", TRAINER, origin=ORIGIN
    )
    tower = PeftModel.from_pretrained(clip.tower, tmp_path / "a")
    try:
        heads = class_features(clip, task.classes, task.templates)
        images, labels = (
            torch.tensor(part) for part in (splits["validation"].images, splits["validation"].labels)
        )
        with torch.no_grad():
            accuracy = 100 * ((clip(images) @ heads.T).argmax(dim=1) == labels).float().mean().item()
    finally:
        tower.unload()
    assert accuracy == pytest.approx(found["finetuned"], abs=100 / len(labels) + 1e-3)


@pytest.mark.parametrize("broken", ["accelerator", "data"])
def test_a_failure_leaves_no_folder_and_no_lora_in_the_base(clip, task, splits, tmp_path, broken):
    trainer = {**TRAINER, "accelerator": "abacus"} if broken == "accelerator" else TRAINER
    bad = ImageArrays(splits["train"].images[:, :16], splits["train"].labels)
    before = set(clip.state_dict())
    with pytest.raises(ValueError, match=r"accelerator|images of shape"):
        finetune(clip, task, {**splits, "train": bad}, PLAN, tmp_path / "a", trainer, origin=ORIGIN)
    assert list(tmp_path.iterdir()) == []
    assert set(clip.state_dict()) == before


def suite():
    sizes = {"train": 32, "validation": 16}
    made = tiny_suite(kind="noise")
    return replace(made, tasks=tuple(replace(task, sizes=sizes) for task in made.tasks))


def test_all_tasks_are_trained_in_turn_and_finished_ones_skipped(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SOURCES", {**data.SOURCES, "noise": NOISE})
    spec = ClipSpec("tiny", str(folder))

    def run(tasks, force=False):
        options = {"cache_dir": tmp_path / "cache", "force": force}
        place = tmp_path / "adapters"
        return dict(finetune_tasks(spec, suite(), tasks, replace(PLAN, steps=4), place, TRAINER, **options))

    assert set(run("patterns")) == {"patterns"}
    results = run("all")
    assert list(results) == ["numbers", "patterns", "digits"]
    assert results["patterns"] is None
    assert all(
        set(found) == {"zero_shot", "finetuned"} for name, found in results.items() if name != "patterns"
    )
    assert run(["patterns", "digits"], force=True)["patterns"] is not None
    with pytest.raises(KnotsError, match=r"'number'; did you mean 'numbers'"):
        run("number")
