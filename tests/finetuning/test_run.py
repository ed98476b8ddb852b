"""A few steps make an adapter that PEFT loads; all start from the same A; the base is given back."""

import json
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from peft import PeftModel
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPVisionModel

from knots.adapters import load_adapter
from knots.errors import KnotsError
from knots.finetuning import finetune, finetune_tasks
from knots.finetuning.pictures import PictureLogits
from knots.models.clip import ClipSpec, load_clip
from knots.models.full import load_finetuned
from knots.models.heads import class_features
from knots.suites import data
from knots.suites.data import ImageArrays
from knots.suites.sources import drawn
from tests.finetuning.conftest import FULL, ORIGIN, PLAN, TRAINER
from tests.miniatures import IMAGE_SIZE, NOISE, draw_noise, tiny_suite


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
        heads = class_features(clip.encode_text, task.classes, task.templates)
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


def test_training_never_asks_for_the_test_split(folder, tmp_path, monkeypatch):
    asked = []

    def load(task, split):
        asked.append(split)
        assert split != "test"
        return draw_noise(task, split)

    noise = drawn(load, version=1, options=("seed",), size=IMAGE_SIZE)
    monkeypatch.setattr(data, "SOURCES", {**data.SOURCES, "noise": noise})
    options = {"cache_dir": tmp_path / "cache", "force": False}
    spec = ClipSpec("tiny", str(folder))
    list(finetune_tasks(spec, suite(), "all", replace(PLAN, steps=4), tmp_path / "a", TRAINER, **options))
    assert asked == ["train", "validation"] * 3


def test_a_result_of_the_other_kind_is_not_replaced(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SOURCES", {**data.SOURCES, "noise": NOISE})
    spec = ClipSpec("tiny", str(folder))

    def run(plan, force=False):
        options = {"cache_dir": tmp_path / "cache", "force": force}
        short = replace(plan, steps=4)
        return dict(finetune_tasks(spec, suite(), "digits", short, tmp_path / "a", TRAINER, **options))

    run(FULL)
    with pytest.raises(KnotsError, match=r"no result of finetune.kind=lora .* force=true"):
        run(PLAN)
    assert run(FULL)["digits"] is None
    assert run(PLAN, force=True)["digits"] is not None


def test_a_full_fine_tune_is_trained_saved_and_taken_off_again(clip, folder, task, splits, tmp_path):
    found = finetune(clip, task, splits, FULL, tmp_path / "a", TRAINER, origin=ORIGIN)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    model = CLIPVisionModel.from_pretrained(tmp_path / "a")
    heads = class_features(clip.encode_text, task.classes, task.templates)
    images, labels = (torch.tensor(getattr(splits["validation"], part)) for part in ("images", "labels"))
    with torch.no_grad():
        pooled = model(pixel_values=clip.normalize(images)).pooler_output
        right = (clip.model.visual_projection(pooled) @ heads.T).argmax(dim=1) == labels
    assert found["finetuned"] == pytest.approx(100 * right.float().mean().item())
    with pytest.warns(UserWarning, match="biases, norms and embeddings"):
        adapter = load_finetuned(tmp_path / "a", clip, name="a")
    assert len(adapter.updates) == 12
    fresh = load_clip(ClipSpec("tiny", str(folder))).state_dict()
    assert all(torch.equal(tensor, clip.state_dict()[name]) for name, tensor in fresh.items())


@pytest.mark.parametrize(
    ("changes", "looks"),
    [
        ({"steps": 10}, [4, 8, 10]),
        ({"steps": 3}, [3]),
        ({"steps": 12}, [4, 8, 12]),
        ({"steps": 90, "patience": 2, "min_delta": 1.0}, [4, 8, 12]),
        ({"steps": 11, "patience": 1, "min_delta": 1.0, "validate_every": 3}, [3, 6]),
    ],
)
def test_the_looks_at_the_validation_split(clip, task, splits, tmp_path, caplog, changes, looks):
    caplog.set_level("INFO")
    plan = replace(PLAN, **changes)
    finetune(clip, task, splits, plan, tmp_path / "a", TRAINER, origin=ORIGIN)
    said = [int(line.split(":")[0].split()[1]) for line in caplog.messages if "validation accuracy" in line]
    assert said == [0, *looks]


def test_pictures_mapped_from_disk_are_read_batch_by_batch(clip, task, splits, tmp_path, monkeypatch):
    expected = finetune(clip, task, splits, PLAN, tmp_path / "a", TRAINER, origin=ORIGIN)
    largest = []

    class Watched(np.memmap):
        def __getitem__(self, key):
            part = super().__getitem__(key)
            largest.append(len(part) if getattr(part, "ndim", 0) == 4 else 0)
            return part

        def __array__(self, *_, **__):
            raise AssertionError("a whole split was copied")

    mapped = {}
    for split, arrays in splits.items():
        path = tmp_path / f"{split}.bin"
        path.write_bytes(arrays.images.tobytes())
        images = Watched(path, dtype=np.uint8, mode="r", shape=arrays.images.shape)
        mapped[split] = ImageArrays(images, arrays.labels)
    monkeypatch.setattr("knots.finetuning.pictures.VALIDATION_BATCH", 20)
    monkeypatch.setattr("knots.finetuning.pictures.PROBES", 5)
    assert finetune(clip, task, mapped, PLAN, tmp_path / "b", TRAINER, origin=ORIGIN) == expected
    assert max(largest) == 20


def test_half_precision_is_for_the_trainer_and_weights_stay_whole(clip, task, splits, tmp_path):
    plan = replace(PLAN, precision="bf16-mixed", dtype="float32", patience=50)
    finetune(clip, task, splits, plan, tmp_path / "a", TRAINER, origin=ORIGIN)
    assert {tensor.dtype for tensor in weights(tmp_path / "a").values()} == {torch.float32}
    finetune(clip, task, splits, replace(plan, precision="32-true"), tmp_path / "b", TRAINER, origin=ORIGIN)
    whole = weights(tmp_path / "b")
    assert any(not torch.equal(tensor, whole[name]) for name, tensor in weights(tmp_path / "a").items())


def test_large_logits_keep_their_digits_in_half_precision(clip, task, splits):
    images = torch.tensor(splits["train"].images[:8])
    heads = class_features(clip.encode_text, task.classes, task.templates)
    logits_of = PictureLogits(clip, heads, scale=10_000.0)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = logits_of(images)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_the_logger_gets_the_curves(clip, task, splits, tmp_path):
    logger = CSVLogger(tmp_path, name="csv")
    trainer = {**TRAINER, "log_every_n_steps": 1}
    finetune(clip, task, splits, PLAN, tmp_path / "a", trainer, origin=ORIGIN, logger=logger)
    curves = pd.read_csv(tmp_path / "csv" / "version_0" / "metrics.csv")
    assert curves["step"][curves["loss"].notna()].tolist() == list(range(12))
    assert curves["step"][curves["accuracy"].notna()].tolist() == [0, 3, 7, 11]
    rates = curves["learning_rate"].dropna()
    assert rates.max() == pytest.approx(PLAN.learning_rate)


def test_a_training_that_diverged_is_not_saved(clip, task, splits, tmp_path):
    plan = replace(PLAN, learning_rate=1e30, warmup=0)
    with pytest.raises(KnotsError, match=r"numbers: training diverged; lower finetune.learning_rate=1e\+30"):
        finetune(clip, task, splits, plan, tmp_path / "a", TRAINER, origin=ORIGIN)
    assert not (tmp_path / "a").exists()


@pytest.mark.gpu
@pytest.mark.parametrize("plan", [PLAN, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_it_trains_on_a_gpu_and_goes_on_there(clip, task, splits, tmp_path, plan, precision):
    plan = replace(plan, precision=precision)
    trainer = {**TRAINER, "accelerator": "gpu", "devices": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("knots.finetuning.run.whole_folder", Mock(side_effect=InterruptedError))
        with pytest.raises(InterruptedError):
            finetune(clip, task, splits, plan, tmp_path / "a", trainer, origin=ORIGIN)
    assert (tmp_path / ".a.training" / "last.ckpt").is_file()
    found = finetune(clip, task, splits, plan, tmp_path / "a", trainer, origin=ORIGIN)
    assert found["finetuned"] >= 0
    assert next(clip.parameters()).device.type == "cpu"
