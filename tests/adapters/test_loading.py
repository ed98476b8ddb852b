import dataclasses
import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from knots.adapters import is_zero_update, load_adapter
from knots.errors import KnotsError
from tests.adapters.conftest import adapt, pair, peft_deltas, write_adapter

ATTENTION = ["q_proj", "k_proj", "v_proj", "out_proj"]

PARITY = {
    "clip_alpha": ("clip", {"r": 4, "lora_alpha": 32, "target_modules": ATTENTION}),
    "clip_patterns": (
        "clip",
        {
            "r": 4,
            "lora_alpha": 6,
            "target_modules": [*ATTENTION, "fc1"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 2, r"encoder.layers.\d.mlp.fc1": 3, "v_proj": 5},
            "alpha_pattern": {"self_attn.v_proj": 11, "^encoder.layers.0.self_attn.q_proj": 7},
        },
    ),
    "clip_rslora": (
        "clip",
        {
            "r": 4,
            "lora_alpha": 6,
            "use_rslora": True,
            "target_modules": ATTENTION,
            "rank_pattern": {"k_proj": 9},
        },
    ),
    "clip_layers": (
        "clip",
        {
            "r": 4,
            "target_modules": ["q_proj"],
            "layers_to_transform": [1, 11],
            "init_lora_weights": "gaussian",
        },
    ),
    "llama": (
        "llama",
        {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj"], "task_type": "SEQ_CLS"},
    ),
    "gpt2": ("gpt2", {"r": 2, "lora_alpha": 3, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
}


@pytest.mark.parametrize("case", PARITY)
def test_updates_are_those_of_peft(case: str, tmp_path: Path) -> None:
    kind, options = PARITY[case]
    model = adapt(kind, **options)
    model.save_pretrained(tmp_path / "task")
    adapter = load_adapter(tmp_path / "task")
    expected = peft_deltas(model)
    assert set(adapter.updates) == set(expected)
    assert list(adapter.updates) == sorted(adapter.updates)
    for name, delta in expected.items():
        assert adapter.updates[name].shape == tuple(delta.shape)
        assert_close(adapter.updates[name].dense(), delta)
    assert adapter.fan_in_fan_out == (kind == "gpt2")
    assert (adapter.name, adapter.source, adapter.prefix) == ("task", str(tmp_path / "task"), "")


def test_classification_head_is_kept_apart(tmp_path: Path) -> None:
    model = adapt("llama", r=2, target_modules=["q_proj"], task_type="SEQ_CLS")
    model.save_pretrained(tmp_path)
    adapter = load_adapter(tmp_path)
    assert list(adapter.heads) == ["score.weight"]
    assert_close(
        adapter.heads["score.weight"], model.base_model.model.score.modules_to_save["default"].weight.data
    )


@pytest.mark.parametrize(
    "key",
    [
        "base_model.model.score.weight",
        "score.weight",
        "base_model.model.score.modules_to_save.default.weight",
        "base_model.model.score.modules_to_save.weight",
    ],
)
def test_head_keys_of_every_style(plain, key: str) -> None:
    head = torch.ones(3, 4)
    frozen = {key.replace("modules_to_save.default", "original_module"): torch.zeros(3, 4)}
    adapter = load_adapter(plain(extra=frozen | {key: head}))
    assert_close(dict(adapter.heads), {"score.weight": head})


def test_head_named_only_by_modules_to_save(plain) -> None:
    extra = {"base_model.model.vision_head.weight": torch.ones(3, 4)}
    assert list(load_adapter(plain(extra=extra, modules_to_save=["vision_head"])).heads) == [
        "vision_head.weight"
    ]
    with pytest.raises(KnotsError, match=r"1 tensors are neither .* vision_head\.weight"):
        load_adapter(plain(extra=extra))


@pytest.mark.parametrize(
    ("style", "prefix"),
    [
        ("base_model.model.{}.lora_{}.weight", ""),
        ("base_model.model.vision_model.{}.lora_{}.weight", "vision_model."),
        ("vision_model.{}.lora_{}.default.weight", "vision_model."),
        ("{}.lora_{}.weight", ""),
        ("base_model.model.{}.lora_{}.default.weight", ""),
        ("base_model.model.{}.lora_{}.sst2.weight", ""),
        ("base_model.model.{}.base_layer.lora_{}.weight", ""),
    ],
)
def test_names_are_normalized(tmp_path: Path, generator: torch.Generator, style: str, prefix: str) -> None:
    a, b = torch.randn(2, 4, generator=generator), torch.randn(5, 2, generator=generator)
    module = "encoder.layers.0.self_attn.q_proj"
    folder = write_adapter(tmp_path / "t", {style.format(module, "A"): a, style.format(module, "B"): b})
    adapter = load_adapter(folder)
    assert list(adapter.updates) == [module]
    assert adapter.prefix == prefix
    assert_close(adapter.updates[module].dense(), b @ a)


def test_patterns_see_the_full_name_behind_the_prefix(tmp_path: Path, generator: torch.Generator) -> None:
    tensors = pair("vision_model.q", generator, rank=2)
    folder = write_adapter(tmp_path / "t", tensors, r=8, rank_pattern={"^vision_model.q": 2}, lora_alpha=3)
    adapter = load_adapter(folder)
    a, b = tensors.values()
    assert_close(adapter.updates["q"].dense(), b @ a * 1.5)


def test_adapter_of_two_towers_keeps_the_names_that_tell_them_apart(tmp_path: Path, generator) -> None:
    names = ["text_model.layers.0.q", "vision_model.layers.0.q"]
    tensors = pair(names[0], generator) | pair(names[1], generator)
    adapter = load_adapter(write_adapter(tmp_path / "t", tensors))
    assert list(adapter.updates) == names
    assert adapter.prefix == ""


def test_frozen_copies_of_the_base_are_skipped(plain) -> None:
    adapter = load_adapter(plain(extra={"base_model.model.layers.0.q.base_layer.weight": torch.ones(5, 4)}))
    assert not adapter.heads


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_factors_are_float32_copies(tmp_path: Path, generator: torch.Generator, dtype: torch.dtype) -> None:
    tensors = {key: tensor.to(dtype) for key, tensor in pair("q", generator).items()}
    update = load_adapter(write_adapter(tmp_path / "t", tensors)).updates["q"]
    assert update.b.dtype == update.a.dtype == torch.float32
    assert_close(update.a, next(iter(tensors.values())).float())


def test_fingerprint_is_of_the_content(plain, tmp_path: Path) -> None:
    folder = plain()
    first = load_adapter(folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    again = load_adapter(write_adapter(tmp_path / "bin", tensors, weights="adapter_model.bin"), name="other")
    assert again.fingerprint == first.fingerprint
    assert len(first.fingerprint) == 64
    assert again.name == "other"
    scaled = load_adapter(write_adapter(tmp_path / "scaled", tensors, lora_alpha=4))
    assert scaled.fingerprint != first.fingerprint
    tensors["base_model.model.layers.0.q.lora_A.weight"][0, 0] += 1e-3
    assert load_adapter(write_adapter(tmp_path / "changed", tensors)).fingerprint != first.fingerprint


def test_adapter_is_frozen(plain) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_adapter(plain()).name = "other"


def test_golden_inputs(shared: Path) -> None:
    for family, count in (("vit", 8), ("llama", 8)):
        for folder in sorted((shared / "golden" / family / "inputs").iterdir()):
            tensors = load_file(folder / "adapter_model.safetensors")
            adapter = load_adapter(folder)
            assert len(adapter.updates) == count
            for name, update in adapter.updates.items():
                stem = f"base_model.model.{name}.lora_"
                assert_close(update.dense(), tensors[f"{stem}B.weight"] @ tensors[f"{stem}A.weight"])


def replace_tensor(folder: Path, key: str, value: torch.Tensor | None) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(key)
    save_file(tensors | ({} if value is None else {key: value}), file)


A0 = "base_model.model.layers.0.q.lora_A.weight"
B0, B1 = A0.replace("lora_A", "lora_B"), "base_model.model.layers.1.q.lora_B.weight"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((5, 2), math.nan), r"'digits', module 'layers\.0\.q': weights are NaN or infinite"),
        (torch.full((5, 2), math.inf), r"'digits', module 'layers\.0\.q': weights are NaN or infinite"),
        (None, r"'digits', module 'layers\.0\.q': lora_A without lora_B"),
        (torch.ones(5, 3), r"'layers\.0\.q': the factors do not fit: lora_A \(2, 4\), lora_B \(5, 3\)"),
        (torch.ones(5, 2, 1, 1), r"'layers\.0\.q': a convolution"),
        (torch.ones(5, 2, dtype=torch.int8), r"'layers\.0\.q': weights are torch\.int8"),
    ],
)
def test_bad_tensors_are_named(plain, value: torch.Tensor | None, message: str) -> None:
    folder = plain()
    replace_tensor(folder, B0, value)
    with pytest.raises(KnotsError, match=message):
        load_adapter(folder)


def test_lora_b_without_lora_a(plain) -> None:
    folder = plain()
    replace_tensor(folder, A0, None)
    with pytest.raises(KnotsError, match="lora_B without lora_A"):
        load_adapter(folder)


def test_rank_of_the_config_must_be_that_of_the_tensors(plain) -> None:
    with pytest.raises(KnotsError, match=r"'layers\.1\.q': the config says rank 4, the tensors have rank 2"):
        load_adapter(plain(rank_pattern={"1.q": 4}))


def test_all_zero_adapter_is_refused_but_one_zero_module_is_not(plain) -> None:
    folder = plain()
    replace_tensor(folder, B0, torch.zeros(5, 2))
    assert not load_adapter(folder).updates["layers.0.q"].dense().any()
    replace_tensor(folder, B1, torch.zeros(5, 2))
    with pytest.raises(KnotsError, match=r"'digits' is a zero update: every lora_B would load as zeros"):
        load_adapter(folder)


def test_empty_adapter(tmp_path: Path) -> None:
    with pytest.raises(KnotsError, match="'t' is empty"):
        load_adapter(write_adapter(tmp_path / "t", {"score.weight": torch.ones(2, 2)}))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("layers.0.q.lora_magnitude_vector", "DoRA"),
        ("layers.0.q.lora_magnitude_vector.default.weight", "DoRA"),
        ("wte.lora_embedding_A", "embedding"),
        ("layers.0.q.lora_B.bias", "lora_B has a bias"),
        ("layers.0.q.lora_diag", "KaSA"),
        ("wte.token_adapter.trainable_tokens_delta", "rows of the embedding"),
        ("layers.0.q.something", r"1 tensors are neither lora_A, lora_B nor a head: layers\.0\.q\.something"),
        ("layers.0.norm.modules_to_save.default.weight", "a part of the backbone trained in full"),
        ("post_layernorm.modules_to_save.weight", "a part of the backbone trained in full"),
        ("layers.0.q.lora_A.second.weight", "two lora_A for 'layers.0.q'"),
    ],
)
def test_tensors_that_are_not_lora_are_refused(plain, key: str, message: str) -> None:
    with pytest.raises(KnotsError, match=f"adapter 'digits'.*{message}"):
        load_adapter(plain(extra={f"base_model.model.{key}": torch.ones(2, 4)}))


def test_messages_are_one_line(plain) -> None:
    folder = plain(extra={f"base_model.model.x{i}": torch.ones(1) for i in range(20)})
    with pytest.raises(KnotsError, match=r"20 tensors .* and 12 more") as caught:
        load_adapter(folder)
    assert "\n" not in str(caught.value)


def test_both_formats_at_once_reads_safetensors(plain) -> None:
    folder = plain()
    (folder / "adapter_model.bin").write_bytes(b"damaged")
    assert load_adapter(folder).updates


def test_loading_does_not_change_the_folder_and_reads_paths(plain, monkeypatch) -> None:
    folder = plain()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.chdir(folder.parent)
    names = [
        load_adapter(source).name for source in (folder, str(folder) + os.sep, Path("digits"), "./digits")
    ]
    assert names == ["digits"] * 4
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    monkeypatch.chdir(folder)
    assert load_adapter(".").name == "digits"


def test_a_loaded_adapter_outlives_its_file(plain) -> None:
    folder = plain()
    adapter = load_adapter(folder)
    expected = adapter.updates["layers.0.q"].dense()
    file = folder / "adapter_model.safetensors"
    file.write_bytes(bytes(file.stat().st_size))
    shutil.rmtree(folder)
    assert_close(adapter.updates["layers.0.q"].dense(), expected)


def test_config_of_an_old_peft(tmp_path: Path, generator: torch.Generator) -> None:
    folder = write_adapter(tmp_path / "t", pair("q", generator), fan_in_fan_out=False, modules_to_save=None)
    config = json.loads((folder / "adapter_config.json").read_text()) | {
        "merge_weights": False,
        "enable_lora": None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert list(load_adapter(folder).updates) == ["q"]


@pytest.mark.parametrize("zeros", ["lora_A", "lora_B", ""])
@pytest.mark.parametrize("weights", ["adapter_model.bin", "adapter_model.safetensors"])
def test_an_adapter_that_changes_nothing_can_be_told(
    tmp_path: Path, generator: torch.Generator, zeros: str, weights: str
) -> None:
    """As the one that carries the base's head and the shared initialization."""
    tensors = pair("model.layers.0.q_proj", generator) | pair("model.layers.1.q_proj", generator)
    tensors = {key: t.zero_() if zeros and zeros in key else t for key, t in tensors.items()}
    head = {"base_model.model.score.weight": torch.ones(3, 4)}
    folder = write_adapter(tmp_path / "pretrained", tensors | head, weights, task_type="SEQ_CLS")
    assert is_zero_update(folder) == bool(zeros)
    if zeros:
        with pytest.raises(KnotsError, match="'pretrained' is a zero update"):
            load_adapter(folder)


def test_one_module_that_changes_is_enough(tmp_path: Path, generator: torch.Generator) -> None:
    still = {key: torch.zeros_like(t) for key, t in pair("a.q", generator).items()}
    assert not is_zero_update(write_adapter(tmp_path / "t", still | pair("b.q", generator)))


def test_what_is_no_adapter_is_no_zero_update_either(tmp_path: Path, generator: torch.Generator) -> None:
    with pytest.raises(KnotsError, match="no such folder"):
        is_zero_update(tmp_path / "absent")
    nan = {key: t * float("nan") for key, t in pair("a.q", generator).items()}
    with pytest.raises(KnotsError, match="NaN"):
        is_zero_update(write_adapter(tmp_path / "t", nan))
