"""Updates on a model: folded, beside the weights, and T adapters in one pass."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from knots.adapters import Adapter
from knots.errors import KnotsError
from knots.models.attach import attach, beside, check_modules, fold
from knots.models.clip import Clip
from knots.updates import Dense, LowRank
from tests.miniatures import MODULES, WIDTH, tiny_adapter_in_memory, tiny_arrays, tiny_updates

FIRST, SECOND = MODULES[0], MODULES[5]


@pytest.fixture
def images() -> Tensor:
    """Seven images."""
    return torch.from_numpy(tiny_arrays(7, 2, seed=1)[0])


def features(clip: Clip, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return clip(images)


def weights(clip: Clip) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in clip.parameters()]


def densely(adapter: Adapter) -> Adapter:
    return Adapter(adapter.name, {name: Dense(update.dense()) for name, update in adapter.updates.items()})


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("put", [fold, attach, lambda tower, adapter: beside(tower, [adapter])])
@pytest.mark.parametrize("dense", [False, True])
def test_the_base_comes_back_bit_for_bit(put: Callable[..., object], dense: bool, clip: Clip, images: Tensor):
    adapter = tiny_adapter_in_memory("a", seed=1)
    before, plain = weights(clip), features(clip, images)
    with put(clip.tower, densely(adapter) if dense else adapter):
        assert not torch.allclose(features(clip, images), plain, atol=1e-2)
    assert same(weights(clip), before)
    assert torch.equal(features(clip, images), plain)


def test_the_base_comes_back_after_an_error(clip: Clip):
    before = weights(clip)
    with pytest.raises(RuntimeError, match="stop"), fold(clip.tower, tiny_adapter_in_memory("a", seed=1)):
        raise RuntimeError("stop")
    assert same(weights(clip), before)


def test_restoring_twice_changes_nothing(clip: Clip):
    before = weights(clip)
    attached = attach(clip.tower, tiny_adapter_in_memory("a", seed=1))
    attached.restore()
    attached.restore()
    assert same(weights(clip), before)


def test_fold_adds_the_update(clip: Clip):
    adapter = tiny_adapter_in_memory("a", seed=1)
    module = clip.tower.get_submodule(FIRST)
    expected = module.weight + adapter.updates[FIRST].dense()
    with fold(clip.tower, adapter):
        torch.testing.assert_close(module.weight, expected)


@pytest.mark.parametrize("dense", [False, True])
def test_side_path_equals_fold(dense: bool, clip: Clip, images: Tensor):
    adapter = tiny_adapter_in_memory("a", seed=1)
    with fold(clip.tower, adapter):
        expected = features(clip, images)
    with beside(clip.tower, [densely(adapter) if dense else adapter]):
        torch.testing.assert_close(features(clip, images), expected, rtol=1e-4, atol=1e-5)


def test_one_batched_pass_equals_one_pass_an_adapter(clip: Clip, images: Tensor):
    adapters = [
        tiny_adapter_in_memory("rank 1", seed=1, rank=1),
        tiny_adapter_in_memory("rank 7", seed=2, rank=7),
        tiny_adapter_in_memory("first layer only", seed=3, modules=MODULES[:4]),
        Adapter("nothing", {}),
        Adapter("mixed", {FIRST: Dense(tiny_updates(4)[FIRST].dense()), SECOND: tiny_updates(4)[SECOND]}),
        Adapter("rank 0", {FIRST: LowRank(torch.zeros(WIDTH, 0), torch.zeros(0, WIDTH))}),
    ]
    parameters = sum(parameter.numel() for parameter in clip.parameters())
    with beside(clip.tower, adapters):
        # One base, whatever the number of adapters.
        assert sum(parameter.numel() for parameter in clip.parameters()) == parameters
        together = features(clip, clip.normalize(images).repeat(len(adapters), 1, 1, 1))
    for adapter, copy in zip(adapters, together.chunk(len(adapters)), strict=True):
        with attach(clip.tower, adapter):
            torch.testing.assert_close(copy, features(clip, images), rtol=1e-4, atol=1e-5)


def test_half_precision_runs_beside_the_weights():
    base = nn.ModuleDict({"q": nn.Linear(64, 64).requires_grad_(False)}).bfloat16()
    generator = torch.Generator().manual_seed(0)
    base["q"].weight.copy_(torch.randn(64, 64, generator=generator))
    # Small against the weight, as an adapter's is: a bf16 sum would lose most of it.
    update = LowRank(0.001 * torch.randn(64, 2, generator=generator), torch.randn(2, 64, generator=generator))
    x = torch.randn(10, 64, generator=generator).bfloat16()
    before = base["q"].weight.clone()
    plain = base["q"](x).float()
    with attach(base, Adapter("a", {"q": update})):
        assert torch.equal(base["q"].weight, before)
        moved = base["q"](x).float() - plain
    assert torch.equal(base["q"](x).float(), plain)
    # The output is rounded to bf16, but what was added to it is not lost.
    expected = x.float() @ update.dense().T
    assert (moved * expected).sum() / expected.square().sum() == pytest.approx(1, abs=0.2)


def small_change(dense: bool) -> tuple[Tensor, LowRank | Dense]:
    """A bf16 weight and an update of a size that adapters have: |dW| / |W| = 0.003."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(256, 256, generator=generator).bfloat16()
    b, a = torch.randn(256, 16, generator=generator), torch.randn(16, 256, generator=generator)
    low_rank = LowRank(0.003 * b * float(weight.float().norm() / (b @ a).norm()), a)
    return weight, Dense(low_rank.dense()) if dense else low_rank


@pytest.mark.parametrize("dense", [False, True])
def test_what_folding_into_bf16_loses_the_side_path_keeps(dense: bool):
    weight, update = small_change(dense)
    base = nn.ModuleDict({"q": nn.Linear(256, 256, bias=False).requires_grad_(False)}).bfloat16()
    base["q"].weight.copy_(weight)
    wanted = update.dense()
    folded = (weight.float() + wanted).bfloat16().float() - weight.float()
    # About half of the update is lost, in whatever precision the sum was computed.
    assert (folded - wanted).norm() / wanted.norm() > 0.4
    with attach(base, Adapter("a", {"q": update})):
        (hook,) = base["q"]._forward_hooks.values()
        nothing = torch.zeros(256, 256, dtype=torch.bfloat16)
        ran = hook(base["q"], (torch.eye(256, dtype=torch.bfloat16),), nothing).T.float()
    assert (ran - wanted).norm() / wanted.norm() < 0.005


def test_half_precision_is_never_folded_into():
    base = nn.ModuleDict({"q": nn.Linear(4, 4)}).bfloat16()
    with pytest.raises(KnotsError, match=r"module 'q' is in torch\.bfloat16: .* folded in float32"):
        fold(base, Adapter("a", {"q": Dense(torch.ones(4, 4))}))


@pytest.mark.parametrize("put", [fold, lambda tower, adapter: beside(tower, [adapter])])
def test_conv1d_keeps_its_weight_the_other_way_round(put: Callable[..., object]):
    base = nn.ModuleDict({"c": Conv1D(6, 4)}).requires_grad_(False)
    assert base["c"].weight.shape == (4, 6)
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    update = LowRank(torch.arange(6.0)[:, None], torch.ones(1, 4))
    plain = base["c"](x)
    with put(base, Adapter("a", {"c": update})):
        torch.testing.assert_close(base["c"](x), plain + x @ update.dense().T)
    assert torch.equal(base["c"](x), plain)


def test_keys_of_another_style_are_shown_beside_the_models(clip: Clip):
    adapter = Adapter("gtsrb", {"layers.0.q": LowRank(torch.ones(WIDTH, 1), torch.ones(1, WIDTH))})
    with pytest.raises(KnotsError) as caught:
        check_modules(clip.tower, adapter)
    assert "adapter 'gtsrb': 1 of its 1 modules" in str(caught.value)
    assert "'layers.0.q'" in str(caught.value)
    assert "'encoder.layers.0.self_attn.k_proj'" in str(caught.value)


def test_other_shapes_are_named(clip: Clip):
    adapter = Adapter("a", {FIRST: LowRank(torch.ones(5, 1), torch.ones(1, WIDTH))})
    with pytest.raises(KnotsError, match=rf"'{FIRST}' has an update of shape \(5, 16\).*shape \(16, 16\)"):
        attach(clip.tower, adapter)


def test_other_kinds_of_modules_are_refused(clip: Clip):
    name = "embeddings.patch_embedding"
    adapter = Adapter("a", {name: LowRank(torch.ones(WIDTH, 1), torch.ones(1, WIDTH))})
    with pytest.raises(KnotsError, match=r"'embeddings\.patch_embedding' is a Conv2d"):
        attach(clip.tower, adapter)


def test_nothing_is_touched_when_one_adapter_does_not_fit(clip: Clip, images: Tensor):
    plain = features(clip, images)
    bad = Adapter("bad", {"nowhere": LowRank(torch.ones(WIDTH, 1), torch.ones(1, WIDTH))})
    with pytest.raises(KnotsError, match="nowhere"):
        beside(clip.tower, [tiny_adapter_in_memory("a", seed=1), bad])
    assert torch.equal(features(clip, images), plain)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gpu_gives_the_cpus_features(dtype: torch.dtype, clip: Clip, images: Tensor):
    adapters = [tiny_adapter_in_memory("a", seed=1), tiny_adapter_in_memory("b", seed=2, rank=9)]
    expected = []
    for adapter in adapters:
        with fold(clip.tower, adapter):
            expected.append(features(clip, images))
    pixels = clip.normalize(images).cuda()
    moved = deepcopy(clip)
    moved.model.to("cuda", dtype)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), beside(moved.tower, adapters):
        ours = features(moved, pixels.repeat(2, 1, 1, 1)).float().cpu()
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(ours, torch.cat(expected), rtol=0, atol=tolerance)
