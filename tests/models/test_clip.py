"""Loading a CLIP, its transform, its features."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessorPil, CLIPModel

from knots.errors import KnotsError
from knots.models.clip import Clip, ClipSpec, load_clip
from knots.suites.data import DataOptions
from tests.miniatures import tiny_arrays


def test_loads_half_precision_weights_in_float32(clip_folder: Path, tmp_path: Path):
    folder = tmp_path / "half"
    shutil.copytree(clip_folder, folder)
    weights = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    clip = load_clip(ClipSpec("half", str(folder)))
    assert {parameter.dtype for parameter in clip.parameters()} == {torch.float32}
    assert not clip.model.training
    torch.testing.assert_close(
        clip.model.visual_projection.weight, weights["visual_projection.weight"].float(), rtol=0, atol=0
    )


def test_loads_pickled_weights_and_a_transform_in_the_old_form(clip: Clip, clip_folder: Path, tmp_path: Path):
    """As OpenAI's repositories have them: `pytorch_model.bin`, and sizes as plain numbers."""
    folder = tmp_path / "pickled"
    shutil.copytree(clip_folder, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "preprocessor_config.json").read_text())
    old = {"size": 32, "crop_size": 32, "feature_extractor_type": "CLIPFeatureExtractor"}
    config.pop("image_processor_type", None)
    (folder / "preprocessor_config.json").write_text(json.dumps({**config, **old}))
    loaded = load_clip(ClipSpec("pickled", str(folder)))
    images = torch.from_numpy(tiny_arrays(3, 2, seed=0)[0])
    assert torch.equal(loaded(images), clip(images))
    assert loaded.reading(DataOptions()).transform.identity == clip.reading(DataOptions()).transform.identity


def test_tower_has_the_normalized_names(clip: Clip):
    assert isinstance(clip.tower.get_submodule("encoder.layers.0.self_attn.q_proj"), torch.nn.Linear)


@pytest.mark.parametrize("channels_first", [False, True])
def test_normalize_equals_the_processor_bit_for_bit(channels_first: bool, clip: Clip, clip_folder: Path):
    images = np.random.default_rng(0).integers(0, 256, size=(9, 32, 32, 3), dtype=np.uint8)
    images[0] = np.arange(256, dtype=np.uint8).repeat(12).reshape(32, 32, 3)  # every value there is
    processor = CLIPImageProcessorPil.from_pretrained(clip_folder)
    expected = processor(list(images), return_tensors="np")["pixel_values"]
    tensor = torch.from_numpy(images)
    ours = clip.normalize(tensor.permute(0, 3, 1, 2) if channels_first else tensor)
    assert ours.dtype == torch.float32
    np.testing.assert_array_equal(ours.numpy(), expected)


def test_constants_come_from_the_preprocessor(clip_folder: Path, tmp_path: Path):
    folder = tmp_path / "other"
    shutil.copytree(clip_folder, folder)
    config = json.loads((folder / "preprocessor_config.json").read_text())
    config |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7], "rescale_factor": 1 / 127}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    images, _ = tiny_arrays(3, 2, seed=0)
    expected = CLIPImageProcessorPil.from_pretrained(folder)(list(images), return_tensors="np")[
        "pixel_values"
    ]
    ours = load_clip(ClipSpec("other", str(folder))).normalize(torch.from_numpy(images))
    np.testing.assert_array_equal(ours.numpy(), expected)


def test_features_are_the_models_and_of_unit_length(clip: Clip, clip_folder: Path):
    images = torch.from_numpy(tiny_arrays(5, 2, seed=0)[0])
    plain = CLIPModel.from_pretrained(clip_folder)
    with torch.no_grad():
        expected = plain.get_image_features(clip.normalize(images)).pooler_output
        ours = clip(images)
    torch.testing.assert_close(ours, torch.nn.functional.normalize(expected))
    torch.testing.assert_close(ours.norm(dim=1), torch.ones(5))


def test_text_features_do_not_depend_on_their_company(clip: Clip):
    prompts = [f"a photo of the number {name}" for name in ("zero", "one", "two two two two")] * 100
    features = clip.encode_text(prompts)
    assert features.shape == (300, 12)
    torch.testing.assert_close(features[299], clip.encode_text(prompts[299:])[0])
    torch.testing.assert_close(features.norm(dim=1), torch.ones(300))
    assert not features.is_inference()


def test_long_prompts_are_cut(clip: Clip):
    assert clip.encode_text(["a photo of " + "two " * 50]).isfinite().all()


def test_images_of_another_size_are_refused(clip: Clip):
    with pytest.raises(KnotsError, match=r"\(3, 28, 28\).*takes \(3, 32, 32\)"):
        clip.normalize(torch.zeros(2, 28, 28, 3, dtype=torch.uint8))


def test_absent_folder_is_named(tmp_path: Path):
    with pytest.raises(KnotsError, match=r"there is no folder '.*nowhere'"):
        load_clip(ClipSpec("tiny", str(tmp_path / "nowhere")))


def test_a_folder_without_a_model_is_named(tmp_path: Path):
    with pytest.raises(KnotsError, match="model 'tiny': cannot load the base"):
        load_clip(ClipSpec("tiny", str(tmp_path)))


@pytest.mark.filterwarnings("ignore::UserWarning:transformers")
def test_absent_weights_are_not_made_up(clip_folder: Path, tmp_path: Path):
    folder = tmp_path / "partial"
    shutil.copytree(clip_folder, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(KnotsError, match="lacks 1 weights of a CLIP"):
        load_clip(ClipSpec("partial", str(folder)))


@pytest.mark.gpu
def test_normalize_is_the_same_on_the_gpu(clip: Clip):
    images = torch.from_numpy(tiny_arrays(16, 2, seed=0)[0])
    on_cpu = clip.normalize(images)
    try:
        assert torch.equal(clip.to("cuda").normalize(images.cuda()).cpu(), on_cpu)
    finally:
        clip.to("cpu")
