"""CKA of updates' outputs against the outputs themselves, kept whole."""

from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from knots.adapters import Adapter
from knots.analysis.activations import knots_maps, measure_cka, update_maps
from knots.analysis.cka import linear_cka
from knots.checks import updates_by_module
from knots.errors import KnotsError
from knots.models.clip import Clip
from knots.spaces import shared_basis
from knots.updates import Dense, LowRank
from tests.miniatures import MODULES

CUTOFF = 1e-5
CHOOSE = {
    "all": lambda x: x.flatten(0, 1),
    "class": lambda x: x[:, 0],
    "last": lambda x: x[:, -1],
    "mean": lambda x: x.mean(dim=1),
}


def panels_of(adapters: Sequence[Adapter]) -> dict[str, dict[str, list[Tensor]]]:
    updates = updates_by_module(adapters, "cpu")
    return {
        "lora": {module: update_maps(parts) for module, parts in updates.items()},
        "knots": {module: knots_maps(parts, CUTOFF) for module, parts in updates.items()},
        "kept": {
            module: knots_maps(parts, CUTOFF, singular_values=True) for module, parts in updates.items()
        },
        "dense": {m: update_maps([Dense(u.dense()) for u in parts]) for m, parts in updates.items()},
    }


def inputs_of(model: torch.nn.Module, module: str, call: object) -> Tensor:
    """X [B, N, I] in float64 of one module of a copy of the model."""
    model, found = deepcopy(model), []
    model.tower.get_submodule(module).register_forward_pre_hook(lambda _, args: found.append(args[0]))
    with torch.no_grad():
        call(model)
    return torch.cat(found).double()


@pytest.mark.parametrize("tokens", ["all", "class", "mean"])
def test_every_module_s_cka_is_that_of_the_outputs_of_its_updates(tokens: str, clip, adapters, images):
    found = measure_cka(clip, panels_of(adapters), images, tokens=tokens, batch_size=4, device="cpu")
    pixels = torch.cat([torch.from_numpy(arrays.images) for arrays in images])
    for module in MODULES[2:]:
        x = CHOOSE[tokens](inputs_of(clip, module, lambda model: model(pixels)))
        assert found.rows == len(x)
        updates = [adapter.updates[module] for adapter in adapters]
        basis = shared_basis(updates, CUTOFF)
        expected = {
            "lora": [x @ u.dense(torch.float64).T for u in updates],
            "dense": [x @ u.dense().double().T for u in updates],
            "knots": [x @ (w @ q.T).T for w, q in basis.right],
        }
        for panel, outputs in expected.items():
            for debiased in (False, True):
                direct = linear_cka([outputs], debiased=debiased)
                got = getattr(found.panels[panel][module], "debiased" if debiased else "biased")
                # The model's own arithmetic is float32, and depends a little on the batch.
                tolerance = {"rtol": 1e-4, "atol": 1e-5, "equal_nan": True}
                torch.testing.assert_close(got, direct, **tolerance)


@pytest.mark.parametrize("tokens", ["all", "last", "mean"])
def test_sentences_are_looked_at_without_padding(tokens: str, llama, text_adapters, texts):
    found = measure_cka(llama, panels_of(text_adapters), texts, tokens=tokens, batch_size=24, device="cpu")
    module = "model.layers.1.self_attn.q_proj"
    rows = []
    for arrays in texts:
        for item in range(len(arrays)):
            batch = arrays.padded([item], llama.pad)
            rows.append(CHOOSE[tokens](inputs_of(llama, module, lambda model, b=batch: model(*b))))
    x = torch.cat(rows)
    assert found.rows == len(x)
    outputs = [x @ adapter.updates[module].dense(torch.float64).T for adapter in text_adapters]
    direct = linear_cka([outputs], debiased=True)
    torch.testing.assert_close(found.panels["lora"][module].debiased, direct, rtol=1e-4, atol=1e-5)


def test_with_its_singular_values_the_basis_has_exactly_the_cka_of_the_updates(clip, adapters, images):
    panels = {name: maps for name, maps in panels_of(adapters).items() if name != "dense"}
    found = measure_cka(clip, panels, images, tokens="all", batch_size=4, device="cpu").panels
    removed = 0.0
    for module in MODULES:
        for kind in ("biased", "debiased"):
            lora, kept, knots = (getattr(found[name][module], kind) for name in ("lora", "kept", "knots"))
            torch.testing.assert_close(kept, lora, rtol=0, atol=1e-9)
            removed = max(removed, float((knots - lora).abs().max()))
    assert removed > 0.01


def test_a_task_without_an_update_has_no_cka_there(clip, images):
    zero = LowRank(torch.zeros(16, 2), torch.ones(2, 16))
    some = LowRank(torch.ones(16, 1), torch.ones(1, 16))
    maps = {"lora": {MODULES[3]: update_maps([some, zero, LowRank(zero.b[:, :0], zero.a[:0])])}}
    found = measure_cka(clip, maps, images, tokens="all", batch_size=8, device="cpu")
    assert found.panels["lora"][MODULES[3]].debiased.isnan().tolist() == [
        [False, True, True],
        [True, True, True],
        [True, True, True],
    ]


def test_the_first_layer_s_class_token_is_the_same_for_every_image(clip, adapters, images):
    found = measure_cka(clip, panels_of(adapters), images, tokens="class", batch_size=8, device="cpu").panels
    assert bool(found["lora"]["encoder.layers.0.self_attn.q_proj"].biased.isnan().all())


def test_what_was_looked_at_is_told(clip, adapters, images):
    seen: list[int] = []
    options = {"tokens": "all", "device": "cpu", "seen": seen.append}
    measure_cka(clip, panels_of(adapters), images, batch_size=4, **options)
    assert seen == [4, 3, 4, 2]


def test_mistakes_are_named(clip: Clip, adapters, images):
    options = {"batch_size": 4, "device": "cpu"}
    with pytest.raises(KnotsError, match="unknown tokens 'al'; did you mean 'all'"):
        measure_cka(clip, panels_of(adapters), images, tokens="al", **options)
    with pytest.raises(KnotsError, match="no items"):
        measure_cka(clip, panels_of(adapters), [images[1]], tokens="all", **options)
    broken = deepcopy(clip)
    with torch.no_grad():
        next(broken.tower.parameters()).fill_(torch.nan)
    with pytest.raises(KnotsError, match=r"module 'encoder.layers.0.*NaN or infinite"):
        measure_cka(broken, panels_of(adapters), images, tokens="all", **options)


@pytest.mark.gpu
def test_the_gpu_gives_the_cpus_numbers(clip, adapters, images):
    found = [
        measure_cka(clip, panels_of(adapters), images, tokens="all", batch_size=4, device=device).panels
        for device in ("cpu", "cuda")
    ]
    for module in MODULES:
        on_cpu, on_gpu = (one["knots"][module].debiased for one in found)
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-4)
