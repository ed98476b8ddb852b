"""A full fine-tune is the change of every linear module, however its keys are called."""

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from knots.errors import KnotsError
from knots.models.attach import fold
from knots.models.full import load_finetuned
from knots.updates import Dense
from tests.hub import files_of
from tests.miniatures import LAYERS

LINEAR = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "mlp.fc1",
    "mlp.fc2",
)


@pytest.fixture
def state(clip, generator):
    """A tower whose linear weights were changed."""
    return {
        key: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        if key.endswith(tuple(f"{name}.weight" for name in LINEAR))
        else tensor.clone()
        for key, tensor in clip.tower.state_dict().items()
    }


def write(folder: Path, state, prefix="", file="model.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    named = {prefix + key: tensor.contiguous() for key, tensor in state.items()}
    save_file(named, folder / file) if file.endswith("s") else torch.save(named, folder / file)
    return folder


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("prefix", ["", "vision_model.", "clip.vision_model."])
def test_updates_are_the_change_of_every_linear_module(clip, state, tmp_path, prefix, file):
    adapter = load_finetuned(write(tmp_path / "a", state, prefix, file), clip, name="digits")
    assert adapter.name == "digits"
    assert set(adapter.updates) == {f"encoder.layers.{n}.{name}" for n in range(LAYERS) for name in LINEAR}
    for module, update in adapter.updates.items():
        assert isinstance(update, Dense)
        expected = state[f"{module}.weight"] - clip.tower.get_submodule(module).weight
        assert torch.equal(update.dense(), expected)
    plain = load_finetuned(write(tmp_path / "b", state), clip, name="other")
    assert adapter.fingerprint == plain.fingerprint != ""


def test_attached_to_the_base_it_is_the_fine_tune(clip, state, tmp_path):
    adapter = load_finetuned(write(tmp_path / "a", state), clip, name="digits")
    images = torch.randint(0, 256, (4, 32, 32, 3), generator=torch.Generator().manual_seed(0)).byte()
    with torch.no_grad(), fold(clip.tower, adapter):
        folded = clip(images)
    base = {key: tensor.clone() for key, tensor in clip.tower.state_dict().items()}
    clip.tower.load_state_dict(state)
    try:
        with torch.no_grad():
            torch.testing.assert_close(folded, clip(images))
    finally:
        clip.tower.load_state_dict(base)


def test_a_whole_clip_is_read_for_its_vision_tower_alone(clip, state, tmp_path):
    text = {
        key: tensor for key, tensor in clip.model.state_dict().items() if not key.startswith("vision_model")
    }
    folder = write(tmp_path / "a", {**text, **{f"vision_model.{key}": t for key, t in state.items()}})
    alone = load_finetuned(write(tmp_path / "b", state), clip, name="b")
    assert load_finetuned(folder, clip, name="a").fingerprint == alone.fingerprint


def test_what_is_left_out_is_said_once_with_its_share(clip, state, tmp_path):
    bias = "encoder.layers.0.mlp.fc1.bias"
    linear = sum(
        (state[key] - tensor).square().sum()
        for key, tensor in clip.tower.state_dict().items()
        if tensor.is_floating_point()
    )
    state[bias] = state[bias] + (linear / (3 * state[bias].numel())).sqrt()
    folder = write(tmp_path / "a", state)
    with pytest.warns(UserWarning, match=r"'digits': 25 % of its change \(squared norm\)") as said:
        load_finetuned(folder, clip, name="digits")
    assert len(said) == 1


def broken(state, how):
    key = "encoder.layers.1.mlp.fc2.weight"
    if how == "absent":
        del state[key]
    elif how == "shape":
        state[key] = state[key][:, :-1]
    elif how == "nan":
        state[key][0, 0] = torch.nan
    elif how == "keys":
        return {f"model.{name}": tensor for name, tensor in state.items()}
    return state


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("absent", r"'digits' has no weights for module 'encoder.layers.1.mlp.fc2'"),
        ("shape", r"'encoder.layers.1.mlp.fc2.weight': shape \(16, 31\), but the base has \(16, 32\)"),
        ("nan", r"'encoder.layers.1.mlp.fc2.weight': weights are NaN or infinite"),
        ("keys", r"no weights of a vision tower: its keys look like 'model.embeddings"),
    ],
)
def test_what_does_not_fit_is_named(clip, state, tmp_path, how, message):
    with pytest.raises(KnotsError, match=message):
        load_finetuned(write(tmp_path / "a", broken(state, how)), clip, name="digits")


def test_the_base_itself_is_no_fine_tune(clip, tmp_path):
    folder = write(tmp_path / "a", clip.tower.state_dict())
    with pytest.raises(KnotsError, match=r"'digits' is a zero update"):
        load_finetuned(folder, clip, name="digits")


def test_a_pickle_that_could_run_code_is_refused(clip, tmp_path):
    (tmp_path / "a").mkdir()
    torch.save({"x": Path("/")}, tmp_path / "a" / "pytorch_model.bin")
    with pytest.raises(KnotsError, match="could run code"):
        load_finetuned(tmp_path / "a", clip, name="digits")


def test_a_source_that_is_not_there_is_named(clip, tmp_path):
    with pytest.raises(KnotsError, match="no such folder"):
        load_finetuned(tmp_path / "nothing", clip, name="digits")
    with pytest.raises(KnotsError, match=r"neither model.safetensors nor pytorch_model.bin is in"):
        load_finetuned(tmp_path, clip, name="digits")
    with pytest.raises(KnotsError, match="revision='v1' is for models on the hub"):
        load_finetuned(tmp_path, clip, name="digits", revision="v1")


def test_a_full_fine_tune_from_the_hub(hub, clip, state, tmp_path):
    local = write(tmp_path / "local", state)
    hub.models["owner/clip-digits"] = {**files_of(local), "optimizer.pt": b"large"}
    adapter = load_finetuned("owner/clip-digits", clip, name="digits")
    assert adapter.source == "owner/clip-digits"
    assert adapter.fingerprint == load_finetuned(local, clip, name="digits").fingerprint
    assert "owner/clip-digits/optimizer.pt" not in hub.downloads
    with pytest.raises(KnotsError, match="has no revision 'v1'"):
        load_finetuned("owner/clip-digits", clip, name="digits", revision="v1")


def test_nothing_is_warned_of_where_only_linear_modules_changed(clip, state, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_finetuned(write(tmp_path / "a", state), clip, name="digits")
