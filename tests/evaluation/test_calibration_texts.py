"""Statistics of pairs of sentences, recomputed one by one: padding counts nowhere, absent classes never."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from knots.adapters import Adapter, load_adapter
from knots.evaluation.calibration import collect_fishers, collect_grams
from knots.merging import merge
from knots.models.attach import fold
from knots.models.classifier import Classifier, ClassifierSpec, load_classifier
from tests.language import MODULES, tiny_llama, tiny_text_adapter, tiny_text_arrays

DATA = [tiny_text_arrays(9, seed=1, longest=9), tiny_text_arrays(7, seed=2, classes=(0, 2))]
ABSENT = [(), (1,)]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return load_classifier(ClassifierSpec("tiny", str(tiny_llama(tmp_path_factory.mktemp("llama")))))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    root = tmp_path_factory.mktemp("adapters")
    return [load_adapter(tiny_text_adapter(root / name, seed)) for seed, name in enumerate(("mnli", "rte"))]


def inputs_of(model: Classifier, module: str, tokens: Tensor, lengths: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = model.tower.get_submodule(module).register_forward_hook(lambda _, x, __: seen.append(x[0]))
    with torch.no_grad():
        model(tokens, lengths)
    handle.remove()
    return seen[0].reshape(-1, seen[0].shape[-1])


def test_grams_are_those_of_one_pair_at_a_time(classifier: Classifier, adapters: Sequence[Adapter]):
    grams = collect_grams(classifier, adapters, DATA, batch_size=40, device="cpu")
    for adapter, arrays in zip(adapters, DATA, strict=True):
        with fold(classifier.tower, adapter):
            for module in MODULES:
                x = torch.cat(
                    [inputs_of(classifier, module, *arrays.padded([i], 0)) for i in range(len(arrays))]
                ).double()
                expected = (x.T @ x / len(x)).float()
                assert len(x) == len(arrays.tokens)
                torch.testing.assert_close(grams[adapter.name][module], expected, rtol=1e-5, atol=1e-6)
    # Queries, keys and values are given one tensor.
    own = grams["rte"]
    assert own["model.layers.0.self_attn.q_proj"] is own["model.layers.0.self_attn.k_proj"]
    assert own["model.layers.0.self_attn.q_proj"] is not own["model.layers.0.self_attn.o_proj"]
    merged = merge(adapters, space="full", rule="regmean", scale=1.0, grams=grams)
    assert set(merged.updates) == set(MODULES)


def slow_fisher(model: Classifier, adapter: Adapter, place: int) -> dict[str, Tensor]:
    """Sums over pairs and classes of squared gradients, by autograd on the weights themselves."""
    arrays, head = DATA[place], adapter.heads["score.weight"]
    present = [c for c in range(3) if c not in ABSENT[place]]
    weights = {name: model.tower.get_submodule(name).weight for name in MODULES}
    totals = {name: torch.zeros(weight.shape, dtype=torch.float64) for name, weight in weights.items()}
    with fold(model.tower, adapter):
        for weight in weights.values():
            weight.requires_grad_(True)
        for item in range(len(arrays)):
            log_p = (model(*arrays.padded([item], 0))[0] @ head.T)[present].log_softmax(0)
            for value in log_p:
                gradients = torch.autograd.grad(value, list(weights.values()), retain_graph=True)
                for name, gradient in zip(weights, gradients, strict=True):
                    totals[name] += float(value.detach().exp()) * gradient.double() ** 2
        for weight in weights.values():
            weight.requires_grad_(False)
    return {name: (total / len(arrays)).float() for name, total in totals.items()}


def test_fisher_is_that_of_one_pair_at_a_time(classifier: Classifier, adapters: Sequence[Adapter]):
    heads = [adapter.heads["score.weight"] for adapter in adapters]
    found = collect_fishers(
        classifier,
        adapters,
        heads,
        DATA,
        labels="exact",
        batch_size=40,
        device="cpu",
        seed=0,
        scale=1.0,
        absent=ABSENT,
    )
    for place, adapter in enumerate(adapters):
        expected = slow_fisher(classifier, adapter, place)
        for name in MODULES:
            scale = float(expected[name].max())
            torch.testing.assert_close(
                found[adapter.name][name], expected[name], rtol=1e-3, atol=1e-5 * scale
            )


@pytest.mark.parametrize("labels", ["sampled", "data"])
def test_other_answers_are_finite_and_never_absent(
    labels: str, classifier: Classifier, adapters: Sequence[Adapter], tmp_path: Path
):
    heads = [adapter.heads["score.weight"] for adapter in adapters]
    options = {"batch_size": 40, "device": "cpu", "seed": 0, "scale": 1.0, "absent": ABSENT}
    found = collect_fishers(classifier, adapters, heads, DATA, labels=labels, **options)  # type: ignore[arg-type]
    for fishers in found.values():
        assert all(bool(f.isfinite().all()) and bool((f > 0).any()) for f in fishers.values())
