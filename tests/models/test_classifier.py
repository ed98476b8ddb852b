"""A decoder's last hidden state is what transformers' own classifier reads, also padded or in bf16."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from knots.adapters import Adapter, load_adapter
from knots.errors import KnotsError
from knots.models.attach import attach, beside
from knots.models.classifier import Classifier, ClassifierSpec, _pad, classifier_reading, load_classifier
from knots.updates import LowRank
from tests.language import LAYERS, MODULES, SPECIAL, WIDTH, tiny_llama, tiny_text_adapter, tiny_text_arrays


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Classifier:
    return load_classifier(ClassifierSpec("tiny", str(folder)))


def test_features_times_a_head_are_transformers_logits(folder: Path, classifier: Classifier):
    theirs = LlamaForSequenceClassification.from_pretrained(folder, num_labels=3)
    theirs.config.pad_token_id = SPECIAL.index("<pad>")
    tokens, lengths = tiny_text_arrays(40, seed=0).padded(range(40), pad=SPECIAL.index("<pad>"))
    mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long()
    with torch.no_grad():
        expected = theirs(input_ids=tokens, attention_mask=mask).logits
        found = classifier(tokens, lengths) @ theirs.score.weight.T
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pad", [0, 5])
def test_padding_changes_nothing(pad: int, classifier: Classifier):
    arrays = tiny_text_arrays(12, seed=1)
    with torch.no_grad():
        together = classifier(*arrays.padded(range(12), pad))
        alone = torch.cat([classifier(*arrays.padded([item], pad)) for item in range(12)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("adapted", [False, True])
def test_what_no_head_reads_may_be_left_out(adapted: bool, classifier: Classifier):
    tokens, lengths = tiny_text_arrays(12, seed=1).padded(range(12), 0)
    name = f"model.layers.{LAYERS - 1}.mlp.down_proj"
    shape = classifier.tower.get_submodule(name).weight.shape
    generator = torch.Generator().manual_seed(0)
    update = LowRank(
        torch.randn(shape[0], 2, generator=generator), torch.randn(2, shape[1], generator=generator)
    )
    rows: list[int] = []
    watch = classifier.tower.get_submodule(name).register_forward_hook(
        lambda _, x, __: rows.append(x[0].shape[1])
    )
    adapter = Adapter("feed-forward", {name: update} if adapted else {})
    with torch.no_grad(), beside(classifier.tower, [adapter]):
        whole, lean = classifier(tokens, lengths), classifier(tokens, lengths, lean=True)
    watch.remove()
    torch.testing.assert_close(lean, whole, rtol=1e-5, atol=1e-5)
    assert rows == [tokens.shape[1], 1]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in classifier.modules())


def test_no_items_have_no_features(classifier: Classifier):
    assert classifier(*tiny_text_arrays(3, seed=1).padded([], 0)).shape == (0, WIDTH)


def test_loading_draws_nothing_from_the_global_generator(folder: Path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load_classifier(ClassifierSpec("tiny", str(folder)))
    assert torch.equal(torch.get_rng_state(), before)


def test_adapters_of_peft_fit(classifier: Classifier, tmp_path: Path):
    adapter = load_adapter(tiny_text_adapter(tmp_path / "a", seed=1))
    assert tuple(adapter.updates) == tuple(sorted(MODULES))
    tokens, lengths = tiny_text_arrays(5, seed=1).padded(range(5), 0)
    plain = classifier(tokens, lengths)
    with attach(classifier.tower, adapter):
        assert not torch.allclose(classifier(tokens, lengths), plain, atol=1e-2)
    assert torch.equal(classifier(tokens, lengths), plain)


def test_bf16_with_the_update_beside_it_is_near_float32_and_folded_into_it_is_not(folder: Path):
    spec = ClassifierSpec("tiny", str(folder))
    exact, half = load_classifier(spec), load_classifier(spec, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    # The same base in both: weights that bf16 holds exactly.
    exact.load_state_dict({key: value.float() for key, value in half.state_dict().items()})
    generator = torch.Generator().manual_seed(0)
    updates = {}
    for name in MODULES:
        weight = exact.tower.get_submodule(name).weight
        b, a = torch.randn(len(weight), 4, generator=generator), torch.randn(4, WIDTH, generator=generator)
        size = 0.002 * float(weight.norm() / (b @ a).norm())
        updates[name] = LowRank(size * b, a)
    adapter = Adapter("small", updates)
    beside_error = relative_errors(half, adapter)
    folded_error = relative_errors(half, adapter, folded=True)
    assert max(beside_error) < 0.02
    assert min(folded_error) > 0.4


def relative_errors(model: Classifier, adapter: Adapter, folded: bool = False) -> list[float]:
    """For every module: how far what runs is from the update, relative to the update."""
    errors = []
    with attach(model.tower, adapter):
        for name, update in adapter.updates.items():
            module, wanted = model.tower.get_submodule(name), update.dense()
            (hook,) = module._forward_hooks.values()
            zeros = torch.zeros(WIDTH, len(wanted), dtype=model.dtype)
            ran = hook(module, (torch.eye(WIDTH, dtype=model.dtype),), zeros).T.float()
            weight = module.weight.float()
            found = (weight + wanted).to(model.dtype).float() - weight if folded else ran
            errors.append(float((found - wanted).norm() / wanted.norm()))
    return errors


def test_any_decoder_will_do(tmp_path: Path):
    config = GPT2Config(vocab_size=24, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    model = load_classifier(ClassifierSpec("gpt2", str(tmp_path)))
    assert model(*tiny_text_arrays(4, seed=0).padded(range(4), 0)).shape == (4, 16)
    assert "transformer.h.0.attn.c_attn" in dict(model.tower.named_modules())


@pytest.mark.parametrize(
    ("pad", "end", "expected"), [(7, 5, 7), (None, 5, 5), (None, [3, 4], 3), (None, None, 0)]
)
def test_rows_are_filled_up_as_in_the_reference(pad: int | None, end: Any, expected: int):
    assert _pad(LlamaConfig(pad_token_id=pad, eos_token_id=end, vocab_size=9)) == expected


def test_an_encoder_is_refused(tmp_path: Path):
    config = BertConfig(
        vocab_size=24, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(KnotsError, match="is a BertForSequenceClassification, no decoder"):
        load_classifier(ClassifierSpec("bert", str(tmp_path)))


def test_absent_weights_are_named(folder: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "base")
    state = load_file(folder / "model.safetensors")
    state.pop("model.norm.weight")
    save_file(state, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    with pytest.raises(KnotsError, match=r"lacks 1 weights, such as 'model.norm.weight'"):
        load_classifier(ClassifierSpec("tiny", str(tmp_path / "base")))


def test_what_is_no_base_is_named(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(KnotsError, match="model 'x': the base"):
        load_classifier(ClassifierSpec("x", str(tmp_path)))


def test_the_tokenizer_has_an_identity_of_its_own(folder: Path, classifier: Classifier, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "copy")
    base = replace(classifier.base, folder=tmp_path / "copy")
    first = classifier_reading(classifier.base)
    assert classifier_reading(base).identity == first.identity
    (tmp_path / "copy" / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert classifier_reading(base).identity != first.identity
    assert first.tokenizer("a dog", "the dog").input_ids == [2, 4, 8, 2, 5, 8]
    for path in (tmp_path / "copy").glob("*token*"):
        path.unlink()
    with pytest.raises(KnotsError, match="the tokenizer of the base"):
        classifier_reading(base)
