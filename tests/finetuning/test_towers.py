"""What is trained of a tower, how it is saved, and that the base comes back as it was."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import CLIPVisionModel

from knots.finetuning.towers import in_training
from knots.models.clip import ClipSpec, load_clip
from knots.training import seeded
from tests.finetuning.conftest import FULL, PLAN


def gradients(clip, plan, images):
    with seeded(0), in_training(clip, plan):
        clip.train()
        F.cross_entropy(5 * clip(images), torch.arange(len(images))).backward()
        return {n: p.grad.clone() for n, p in clip.named_parameters() if p.grad is not None}


@pytest.fixture
def images(generator):
    return torch.randint(0, 256, (6, 32, 32, 3), generator=generator).byte()


@pytest.mark.parametrize("plan", [PLAN, FULL], ids=["lora", "full"])
def test_checkpointing_leaves_gradients_as_they_are(clip, images, plan):
    kept = gradients(clip, plan, images)
    computed_again = gradients(clip, replace(plan, gradient_checkpointing=True), images)
    assert kept
    assert kept.keys() == computed_again.keys()
    assert all(torch.equal(gradient, computed_again[name]) for name, gradient in kept.items())


def test_lora_trains_its_factors_and_full_the_whole_tower_and_nothing_else(clip, images):
    assert all("lora_" in name for name in gradients(clip, PLAN, images))
    full = gradients(clip, FULL, images)
    assert full.keys() == {f"model.vision_model.{name}" for name, _ in clip.tower.named_parameters()}


@pytest.mark.parametrize("plan", [PLAN, FULL], ids=["lora", "full"])
def test_the_base_is_given_back_as_it_was(clip, folder, plan):
    def spoil():
        with in_training(clip, replace(plan, gradient_checkpointing=True)) as tower:
            for weight in tower.module.parameters():
                if weight.requires_grad:
                    weight.data += 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        spoil()
    fresh = load_clip(ClipSpec("tiny", str(folder))).tower.state_dict()
    state = clip.tower.state_dict()
    assert state.keys() == fresh.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in fresh.items())
    assert not clip.training
    assert not any(weight.requires_grad or weight.grad is not None for weight in clip.parameters())
    assert not any(module._forward_hooks for module in clip.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_full_fine_tune_is_one_that_transformers_loads(clip, images, tmp_path, dtype):
    with in_training(clip, FULL) as tower:
        with torch.no_grad():
            for weight in tower.module.parameters():
                weight += 0.01
        tower.save(tmp_path, dtype)
        pixels = clip.normalize(images)
        expected = clip.tower(pixel_values=pixels).pooler_output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {dtype}
    assert "/" not in (tmp_path / "config.json").read_text()
    model, info = CLIPVisionModel.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tolerance = {} if dtype == torch.float32 else {"atol": 0.05, "rtol": 0.05}
    torch.testing.assert_close(model(pixel_values=pixels).pooler_output, expected, **tolerance)


def test_tensors_are_copies_that_load_puts_back(clip):
    for plan in (PLAN, FULL):
        with in_training(clip, plan) as tower:
            kept = tower.tensors()
            trained = [weight for weight in tower.module.parameters() if weight.requires_grad]
            for weight in trained:
                weight.data += 1
            changed = tower.tensors()
            tower.load(kept)
            assert all(torch.equal(tensor, kept[name]) for name, tensor in tower.tensors().items())
            assert any(not torch.equal(tensor, kept[name]) for name, tensor in changed.items())
