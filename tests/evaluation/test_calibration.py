"""Gram matrices and Fisher information of the tiny CLIP, recomputed by slow and independent code."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

import knots
from knots.adapters import Adapter
from knots.errors import KnotsError
from knots.evaluation import calibration
from knots.evaluation.calibration import collect_fishers, collect_grams
from knots.models.attach import fold
from knots.models.clip import Clip
from knots.models.heads import build_heads
from knots.suites.data import ImageArrays
from knots.updates import Dense, LowRank
from tests.miniatures import LAYERS, MODULES, WIDTH, tiny_adapter_in_memory, tiny_arrays, tiny_suite

TOKENS = 1 + (32 // 8) ** 2
MLP = tuple(f"encoder.layers.{layer}.mlp.{name}" for layer in range(LAYERS) for name in ("fc1", "fc2"))
SCALE = 5.0  # the tiny model's cosines differ much; at 100 it would be sure of every class

Numbers = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def heads(clip: Clip) -> Sequence[Tensor]:
    """Class features of three tasks with 3, 4 and 3 classes."""
    return build_heads(clip, tiny_suite()).tasks


@pytest.fixture(scope="module")
def data() -> Sequence[ImageArrays]:
    """7, 5 and 6 images."""
    sizes = ((7, 3), (5, 4), (6, 3))
    return [ImageArrays(*tiny_arrays(n, classes, seed)) for seed, (n, classes) in enumerate(sizes)]


@pytest.fixture(autouse=True)
def untouched(clip: Clip) -> Iterator[None]:
    """Whatever a test does, the base is left as it was."""
    before = {name: tensor.clone() for name, tensor in (*clip.named_parameters(), *clip.named_buffers())}
    yield
    for name, tensor in (*clip.named_parameters(), *clip.named_buffers()):
        assert torch.equal(tensor, before[name]), name
        assert tensor.device == before[name].device
        assert not tensor.requires_grad
        assert tensor.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in clip.modules())


def grams_of(clip: Clip, adapters: Sequence[Adapter], data: Sequence[ImageArrays], **changes: Any) -> Numbers:
    return collect_grams(clip, adapters, data, **{"batch_size": 3, "device": "cpu", **changes})


def fishers_of(clip: Clip, adapters: Any, heads: Any, data: Any, **changes: Any) -> Numbers:
    options = {"labels": "exact", "batch_size": 3, "device": "cpu", "seed": 0, "scale": SCALE, **changes}
    return collect_fishers(clip, adapters, heads, data, **options)


def assert_same(got: Numbers, expected: Numbers, tolerance: float) -> None:
    """Equal names, and matrices equal to a fraction of each one's largest entry."""
    assert list(got) == list(expected)
    for task in expected:
        assert list(got[task]) == list(expected[task])
        for module, matrix in expected[task].items():
            error = float((got[task][module] - matrix).abs().max() / matrix.abs().max())
            assert error < tolerance, f"{task}, {module}: {error:.1e}"


def inputs_of(clip: Clip, adapter: Adapter, images: Tensor, module: str) -> Tensor:
    """X [tokens, I] in float64, one image after the other through a model that is folded on its own."""
    model, rows = deepcopy(clip), []
    fold(model.tower, adapter)
    model.tower.get_submodule(module).register_forward_pre_hook(lambda _, args: rows.append(args[0][0]))
    with torch.no_grad():
        for image in images:
            model(image[None])
    return torch.cat(rows).double()


@pytest.mark.parametrize("module", [*MODULES, *MLP])
def test_a_gram_is_of_all_tokens_of_all_images_through_the_tasks_own_model(
    module: str, clip: Clip, data: Sequence[ImageArrays]
):
    widths = {name: 32 if name.endswith("fc2") else WIDTH for name in (*MODULES, *MLP)}
    adapters = [wide_adapter(f"task {seed}", seed, widths) for seed in range(3)]
    grams = grams_of(clip, adapters, data)
    for adapter, arrays in zip(adapters, data, strict=True):
        x = inputs_of(clip, adapter, torch.from_numpy(arrays.images), module)
        assert len(x) == TOKENS * len(arrays)
        gram = grams[adapter.name][module]
        assert gram.dtype == torch.float32
        assert gram.device.type == "cpu"
        torch.testing.assert_close(gram.double(), x.T @ x / len(x), rtol=1e-5, atol=1e-5)


def wide_adapter(name: str, seed: int, widths: dict[str, int]) -> Adapter:
    """An adapter for attention and feed-forward modules, of in features `widths`."""
    generator = torch.Generator().manual_seed(seed)
    outs = {module: 32 if module.endswith("fc1") else WIDTH for module in widths}
    return Adapter(
        name,
        {
            module: LowRank(
                0.1 * torch.randn(outs[module], 2, generator=generator),
                torch.randn(2, width, generator=generator),
            )
            for module, width in widths.items()
        },
    )


def test_modules_with_the_same_input_share_one_gram(
    clip: Clip, adapters: Sequence[Adapter], data: Sequence[ImageArrays]
):
    grams = grams_of(clip, adapters, data)
    assert list(grams) == [adapter.name for adapter in adapters]
    for found in grams.values():
        assert list(found) == sorted(MODULES)
        assert len({id(gram) for gram in found.values()}) == 2 * LAYERS
        for layer in range(LAYERS):
            q, k, v, out = (
                found[f"encoder.layers.{layer}.self_attn.{n}_proj"] for n in ("q", "k", "v", "out")
            )
            assert q is k
            assert q is v
            assert q is not out


def test_tasks_get_numbers_for_modules_that_only_others_touch(
    clip: Clip, heads: Sequence[Tensor], data: Sequence[ImageArrays]
):
    parts = [tiny_adapter_in_memory(f"task {i}", i, modules=MODULES[i : i + 2], size=1.5) for i in range(3)]
    for numbers in (grams_of(clip, parts, data), fishers_of(clip, parts, heads, data)):
        assert all(list(found) == sorted(MODULES[:4]) for found in numbers.values())
    # Nothing stands below the first layer's inputs, so they are the base's.
    first = grams_of(clip, parts, data)["task 2"][MODULES[0]]
    x = inputs_of(clip, Adapter("none", {}), torch.from_numpy(data[2].images), MODULES[0])
    torch.testing.assert_close(first.double(), x.T @ x / len(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("labels", ["exact", "sampled", "data"])
def test_numbers_do_not_depend_on_the_batch_size(
    batch_size: int, labels: str, clip: Clip, adapters: Any, heads: Any, data: Any
):
    options = {"batch_size": batch_size}
    assert_same(grams_of(clip, adapters, data, **options), grams_of(clip, adapters, data), 1e-5)
    expected = fishers_of(clip, adapters, heads, data, labels=labels)
    assert_same(fishers_of(clip, adapters, heads, data, labels=labels, **options), expected, 1e-4)


def test_gradients_of_single_images_are_made_in_chunks(
    clip: Clip, adapters: Any, heads: Any, data: Any, monkeypatch: pytest.MonkeyPatch
):
    expected = fishers_of(clip, adapters, heads, data)
    for chunk in (1, 2 * WIDTH**2):
        monkeypatch.setattr(calibration, "CHUNK", chunk)
        assert_same(fishers_of(clip, adapters, heads, data), expected, 1e-5)


@pytest.mark.parametrize("labels", ["exact", "sampled", "data"])
def test_numbers_do_not_depend_on_the_order_of_tasks(
    labels: str, clip: Clip, adapters: Any, heads: Any, data: Any
):
    back = fishers_of(clip, adapters[::-1], heads[::-1], data[::-1], labels=labels)
    forth = fishers_of(clip, adapters, heads, data, labels=labels)
    assert_same({name: back[name] for name in forth}, forth, 1e-6)
    back, forth = grams_of(clip, adapters[::-1], data[::-1]), grams_of(clip, adapters, data)
    assert_same({name: back[name] for name in forth}, forth, 1e-6)


def squares(clip: Clip, adapter: Adapter, head: Tensor, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """p [B, C] and squared gradients [B, C, O, I] by module: autograd on weights, image by image."""
    model = deepcopy(clip)
    fold(model.tower, adapter)
    weights = {name: model.tower.get_submodule(name).weight.requires_grad_() for name in sorted(MODULES)}
    every, found = [], {name: [] for name in weights}
    for image in images:
        log_p = torch.log_softmax(SCALE * model(image[None])[0] @ head.T, dim=0)
        every.append(log_p.detach().exp())
        for one in log_p:
            gradients = torch.autograd.grad(one, list(weights.values()), retain_graph=True)
            for name, gradient in zip(weights, gradients, strict=True):
                found[name].append(gradient.square())
    shape = (len(images), len(head), WIDTH, WIDTH)
    return torch.stack(every), {name: torch.stack(parts).view(shape) for name, parts in found.items()}


@pytest.mark.parametrize("labels", ["exact", "data"])
def test_fishers_are_what_autograd_finds_image_by_image_and_class_by_class(
    labels: str, clip: Clip, adapters: Any, heads: Any, data: Any
):
    expected: Numbers = {}
    for adapter, head, arrays in zip(adapters, heads, data, strict=True):
        p, found = squares(clip, adapter, head, torch.from_numpy(arrays.images))
        if labels == "data":
            p = torch.nn.functional.one_hot(torch.from_numpy(arrays.labels), len(head)).float()
        expected[adapter.name] = {
            name: torch.einsum("bc,bcoi->oi", p, parts) / len(arrays) for name, parts in found.items()
        }
    got = fishers_of(clip, adapters, heads, data, labels=labels)
    assert_same(got, expected, 1e-4)
    assert all(
        f.dtype == torch.float32 and bool((f >= 0).all()) for part in got.values() for f in part.values()
    )


def test_sampled_fishers_average_to_the_exact_ones(clip: Clip, adapters: Any, heads: Any, data: Any):
    """Over 200 seeds, the error of the average is within 5 standard errors of the sum of all entries."""
    (adapter, head, arrays), seeds = (adapters[1], heads[1], data[1]), 200
    p, found = squares(clip, adapter, head, torch.from_numpy(arrays.images))
    # One number an image and class, so that its variance over the classes is known.
    sums = torch.stack([parts.sum(dim=(2, 3)) for parts in found.values()]).double()
    mean = (p * sums).sum(dim=2)
    variance = ((p * sums.square()).sum(dim=2) - mean.square()).sum(dim=1) / len(arrays) ** 2
    assert p.amax(dim=1).min() < 0.9  # or there would be nothing to draw
    drawn = []
    for seed in range(seeds):
        one = fishers_of(clip, [adapter], [head], [arrays], labels="sampled", seed=seed, batch_size=5)
        drawn.append(torch.stack([one[adapter.name][name].double().sum() for name in found]))
    error = torch.stack(drawn).mean(dim=0) - mean.mean(dim=1)
    assert bool((error.abs() < 5 * (variance / seeds).sqrt()).all())
    spread = torch.stack(drawn).var(dim=0)
    torch.testing.assert_close(spread, variance, rtol=0.5, atol=0)


def test_draws_depend_on_seed_and_task_name_alone(clip: Clip, adapters: Any, heads: Any, data: Any):
    options = {"labels": "sampled", "scale": 0.5}  # any class is about as likely as any other
    torch.manual_seed(1)
    first = fishers_of(clip, adapters[:1], heads[:1], data[:1], **options)
    torch.manual_seed(2)
    again = fishers_of(clip, adapters[::-1], heads[::-1], data[::-1], **options)
    assert_same(first, {"task 0": again["task 0"]}, 1e-6)
    other = fishers_of(clip, adapters[:1], heads[:1], data[:1], seed=1, **options)
    assert not torch.allclose(first["task 0"][MODULES[0]], other["task 0"][MODULES[0]], rtol=1e-2)


def test_it_works_inside_no_grad_and_inference_mode(clip: Clip, adapters: Any, heads: Any, data: Any):
    grams, fishers = grams_of(clip, adapters, data), fishers_of(clip, adapters, heads, data)
    with torch.inference_mode():
        inner = [head.clone() for head in heads]
        assert_same(fishers_of(clip, adapters, inner, data), fishers, 1e-6)
        assert_same(grams_of(clip, adapters, data), grams, 1e-6)
    with torch.no_grad():
        assert_same(fishers_of(clip, adapters, heads, data), fishers, 1e-6)


def test_grams_of_a_model_in_half_precision(clip: Clip, adapters: Any, heads: Any, data: Any):
    half = deepcopy(clip)
    half.model.to(torch.bfloat16)
    assert_same(grams_of(half, adapters, data), grams_of(clip, adapters, data), 5e-2)
    with pytest.raises(KnotsError, match=r"in torch.bfloat16.*use precision=32"):
        fishers_of(half, adapters, heads, data)


@pytest.mark.parametrize("collect", ["grams", "fishers"])
def test_the_base_is_given_back_after_an_error_in_the_middle(
    collect: str, clip: Clip, adapters: Any, heads: Any, data: Any, monkeypatch: pytest.MonkeyPatch
):
    calls, forward = [], Clip.forward

    def fails(self: Clip, images: Tensor) -> Tensor:
        calls.append(len(images))
        features = forward(self, images)
        if len(calls) == 5:
            raise RuntimeError("stop")
        return features

    plain = clip(torch.from_numpy(data[0].images)).clone()
    monkeypatch.setattr(Clip, "forward", fails)
    with pytest.raises(RuntimeError, match="stop"):  # the fixture looks at the base
        grams_of(clip, adapters, data) if collect == "grams" else fishers_of(clip, adapters, heads, data)
    assert len(calls) == 5
    monkeypatch.undo()
    assert torch.equal(clip(torch.from_numpy(data[0].images)), plain)


def test_merges_take_what_was_collected(clip: Clip, adapters: Any, heads: Any, data: Any):
    fishers = fishers_of(clip, adapters, heads, data)
    for method, collected in (
        ("regmean", {"grams": grams_of(clip, adapters, data)}),
        ("fisher", {"fishers": fishers}),
    ):
        merged = knots.merge(adapters, **knots.METHODS[method], scale=1.0, **collected)
        assert sorted(merged.updates) == sorted(MODULES)


def test_mistakes_are_named(clip: Clip, adapters: Any, heads: Any, data: Any):
    with pytest.raises(KnotsError, match="3 adapters and the data of 2 tasks"):
        grams_of(clip, adapters, data[:2])
    with pytest.raises(KnotsError, match="0 adapters"):
        grams_of(clip, [], [])
    with pytest.raises(KnotsError, match="two adapters are called 'task 0'"):
        grams_of(clip, [adapters[0]] * 3, data)
    with pytest.raises(KnotsError, match="no calibration items for task 'task 2'"):
        grams_of(clip, adapters, [*data[:2], ImageArrays(*tiny_arrays(0, 3, seed=0))])
    with pytest.raises(KnotsError, match="batch size must be at least 1, got 0"):
        grams_of(clip, adapters, data, batch_size=0)
    foreign = Adapter("task 2", {"nowhere": LowRank(torch.ones(3, 1), torch.ones(1, 3))})
    with pytest.raises(KnotsError, match=r"adapter 'task 2'.*'nowhere'"):
        grams_of(clip, [*adapters[:2], foreign], data)
    with pytest.raises(KnotsError, match="unknown kind of labels 'samples'; did you mean 'sampled'"):
        fishers_of(clip, adapters, heads, data, labels="samples")
    with pytest.raises(KnotsError, match="3 adapters and 1 heads"):
        fishers_of(clip, adapters, heads[:1], data)
    with pytest.raises(KnotsError, match="task 'task 0': the data have the label 2, the head 2 classes"):
        fishers_of(clip, adapters, [head[:2] for head in heads], data, labels="data")


def test_a_touched_module_that_encodes_nothing_is_named(clip: Clip, data: Any):
    model = deepcopy(clip)
    model.tower.spare = torch.nn.Linear(4, 4)
    idle = Adapter("idle", {"spare": Dense(torch.ones(4, 4))})
    with pytest.raises(KnotsError, match="module 'spare' has an update, but takes no part"):
        grams_of(model, [idle], data[:1])


@pytest.mark.gpu
@pytest.mark.parametrize("labels", ["exact", "sampled", "data"])
def test_the_gpu_gives_the_cpus_numbers(labels: str, clip: Clip, adapters: Any, heads: Any, data: Any):
    assert_same(grams_of(clip, adapters, data, device="cuda"), grams_of(clip, adapters, data), 1e-4)
    on_gpu = fishers_of(clip, adapters, heads, data, labels=labels, device="cuda")
    assert_same(on_gpu, fishers_of(clip, adapters, heads, data, labels=labels), 1e-4)
