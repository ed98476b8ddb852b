import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from torch.testing import assert_close

from knots.adapters import Adapter, load_adapter, save_adapter
from knots.adapters.saving import pattern_keys
from knots.errors import KnotsError
from knots.updates import Dense, LowRank
from tests.adapters.conftest import adapt, build, peft_deltas


def random(rows: int, columns: int, rank: int, seed: int = 0) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    return LowRank(
        torch.randn(rows, rank, generator=generator), torch.randn(rank, columns, generator=generator)
    )


def two_modules(**options: object) -> Adapter:
    return Adapter("m", {"q": random(6, 5, 3), "layers.0.k": random(4, 5, 2, seed=1)}, **options)


def relative_error(adapter: Adapter, other: Adapter) -> float:
    lost = total = 0.0
    for name, update in adapter.updates.items():
        dense = update.dense(torch.float64)
        saved = other.updates[name].dense(torch.float64) if name in other.updates else torch.zeros_like(dense)
        lost, total = lost + float((dense - saved).square().sum()), total + float(dense.square().sum())
    return (lost / total) ** 0.5


@pytest.mark.parametrize("kind", ["clip", "llama", "gpt2"])
def test_plain_peft_loads_what_was_saved(kind: str, tmp_path: Path) -> None:
    """Mixed ranks and alphas; the CLIP has 48 modules, so layers 1 and 11 and PEFT's own shortening occur."""
    options = {
        "clip": {"target_modules": ["q_proj", "k_proj", "v_proj", "out_proj"], "use_rslora": True},
        "llama": {"target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "SEQ_CLS"},
        "gpt2": {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
    }[kind]
    patterns = {
        "clip": {"layers.1.self_attn.q_proj": 2, "layers.11.self_attn.q_proj": 5, "v_proj": 3},
        "llama": {"layers.1.self_attn.q_proj": 2, "down_proj": 5},
        "gpt2": {"h.0.attn.c_proj": 1},
    }[kind]
    alphas = {key: rank + 1 for key, rank in patterns.items()}
    model = adapt(kind, r=4, lora_alpha=9, rank_pattern=patterns, alpha_pattern=alphas, **options)
    model.save_pretrained(tmp_path / "task")
    adapter = load_adapter(tmp_path / "task")
    assert save_adapter(adapter, tmp_path / "saved") == 0.0
    again = PeftModel.from_pretrained(build(kind), tmp_path / "saved")
    expected, found = peft_deltas(model), peft_deltas(again)
    assert set(found) == set(expected)
    for name in expected:
        assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
    reloaded = load_adapter(tmp_path / "saved")
    assert reloaded.fingerprint == adapter.fingerprint
    assert list(reloaded.heads) == list(adapter.heads)


def test_config_states_every_module(tmp_path: Path) -> None:
    save_adapter(two_modules(prefix="vision_model.", base="me/base", fan_in_fan_out=True), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    ranks = {"vision_model.q": 3, "vision_model.layers.0.k": 2}
    assert set(config["target_modules"]) == set(ranks)
    assert config["rank_pattern"] == config["alpha_pattern"] == ranks
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (3, 3, None)
    assert (config["base_model_name_or_path"], config["fan_in_fan_out"]) == ("me/base", True)
    assert "base_model.model.vision_model.q.lora_A.weight" in load_file(
        tmp_path / "adapter_model.safetensors"
    )
    reloaded = load_adapter(tmp_path)
    assert (reloaded.prefix, reloaded.base, reloaded.fan_in_fan_out) == ("vision_model.", "me/base", True)
    assert list(reloaded.updates) == ["layers.0.k", "q"]


def test_heads_stand_beside(tmp_path: Path) -> None:
    heads = {"digits.weight": torch.ones(3, 4), "digits.bias": torch.zeros(3)}
    save_adapter(two_modules(heads=heads), tmp_path)
    assert_close(load_file(tmp_path / "heads.safetensors"), heads)
    assert_close(dict(load_adapter(tmp_path).heads), heads)


def test_rank_is_that_of_the_update(tmp_path: Path) -> None:
    low = random(6, 5, 2)
    doubled = LowRank(torch.cat([low.b, 2 * low.b], dim=1), torch.cat([low.a, low.a], dim=0))
    adapter = Adapter(
        "m", {"doubled": doubled, "wide": random(3, 5, 9), "none": low.scaled(0.0), "plain": low}
    )
    assert save_adapter(adapter, tmp_path) == 0.0
    saved = load_adapter(tmp_path)
    assert {name: update.rank for name, update in saved.updates.items()} == {
        "doubled": 2,
        "wide": 3,
        "plain": 2,
    }
    assert relative_error(adapter, saved) < 1e-6


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_dense_update_gets_an_identity(shape: tuple[int, int], tmp_path: Path) -> None:
    weight = random(*shape, rank=8).dense()
    save_adapter(Adapter("m", {"q": Dense(weight), "zero": Dense(torch.zeros(shape))}), tmp_path)
    saved = load_adapter(tmp_path).updates
    assert list(saved) == ["q"]
    assert saved["q"].rank == min(shape)
    assert torch.equal(saved["q"].dense(), weight)


@pytest.mark.parametrize("max_rank", [1, 2, 3, 99])
def test_truncation_error_is_the_true_one(max_rank: int, tmp_path: Path) -> None:
    adapter = Adapter(
        "m", {"a": random(9, 7, 4), "b": Dense(random(5, 8, 5, seed=2).dense()), "c": random(3, 3, 6)}
    )
    error = save_adapter(adapter, tmp_path, max_rank=max_rank)
    saved = load_adapter(tmp_path)
    assert max(update.rank for update in saved.updates.values()) == min(max_rank, 5)
    assert error == pytest.approx(relative_error(adapter, saved), rel=1e-4, abs=1e-6)
    assert (error > 0.01) == (max_rank < 5)


@pytest.mark.parametrize("max_rank", [0, -1, 1.5, True, "4"])
def test_max_rank_out_of_range(max_rank: object, tmp_path: Path) -> None:
    with pytest.raises(KnotsError, match=r"max_rank=.*; allowed: a whole number of 1 or more"):
        save_adapter(two_modules(), tmp_path / "m", max_rank=max_rank)
    assert not (tmp_path / "m").exists()


def test_nothing_to_save(tmp_path: Path) -> None:
    with pytest.raises(KnotsError, match="'m': every update is zero"):
        save_adapter(Adapter("m", {"q": random(3, 3, 2).scaled(0.0)}), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    with pytest.raises(KnotsError, match="'m', module 'q': weights are NaN or infinite"):
        save_adapter(Adapter("m", {"q": random(3, 3, 2).scaled(float("nan"))}), tmp_path / "m")


@pytest.mark.parametrize(
    "modules",
    [
        ["encoder.layers.1.x", "encoder.layers.11.x", "encoder.layers.111.x"],
        ["fc", "decoder.fc", "a.decoder.fc"],
        ["h.1.0", "h.110", "h.1x0"],
        ["block.a+b", "block.a", "block.(c)"],
    ],
)
def test_patterns_find_exactly_their_module(modules: list[str]) -> None:
    keys = pattern_keys(modules)
    assert set(keys) == set(modules)
    assert [get_pattern_key(list(keys.values()), module) for module in modules] == [keys[m] for m in modules]


def test_usual_names_are_written_plainly() -> None:
    assert pattern_keys(["layers.1.q", "layers.11.q"]) == {
        "layers.11.q": "layers.11.q",
        "layers.1.q": "layers.1.q",
    }


def test_saving_again_replaces_an_own_folder_and_no_other(tmp_path: Path) -> None:
    save_adapter(two_modules(heads={"t.weight": torch.ones(2, 2)}), tmp_path / "m")
    save_adapter(two_modules(), tmp_path / "m", max_rank=1)
    assert {path.name for path in (tmp_path / "m").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    trained = tmp_path / "trained"
    adapt("clip", r=2, target_modules=["q_proj"]).save_pretrained(trained)
    (tmp_path / "m" / "notes.txt").write_text("mine")
    for folder in (trained, tmp_path / "m"):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(KnotsError, match="the folder holds other files"):
            save_adapter(two_modules(), folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_target_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("x")
    for target in (tmp_path / "m", tmp_path / "m" / "below"):
        with pytest.raises(KnotsError, match="cannot save to"):
            save_adapter(two_modules(), target)


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: writing fails in the middle, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    adapter = Adapter("m", {"q": random(64, 64, 32)})
    save_adapter(two_modules(), tmp_path / "m")
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    for name in ("m", "new"):
        with small_disk(4096), pytest.raises(KnotsError, match=f"cannot save to .*{name}: File too large"):
            save_adapter(adapter, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before


def test_folders_above_are_made_and_home_is_expanded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_adapter(two_modules(), "~/a/b")
    assert load_adapter(tmp_path / "a" / "b").updates
