"""A decoder and its head in training: what is trained, how it is saved, and that the base comes back."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from knots.adapters import load_adapter
from knots.finetuning.decoders import in_training
from knots.finetuning.pairs import PairLogits
from knots.models.classifier import ClassifierSpec, load_classifier
from knots.training import seeded
from tests.finetuning.conftest import HEAD, PAIRS

KINDS = pytest.mark.parametrize("plan", [PAIRS, HEAD], ids=["lora", "head"])


def spoil(tower):
    """Change all that is trained, as training would."""
    generator = torch.Generator().manual_seed(1)
    changed = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in tower.tensors().items()
    }
    tower.load(changed)
    return changed


def gradients(classifier, pairs, texts, plan):
    *inputs, labels = texts["train"].batch(range(8), classifier.pad)
    with seeded(0), in_training(classifier, 3, plan) as tower:
        if plan.kind == "lora":
            spoil(tower)  # or B would be zero, and with it the gradient of A
        network = PairLogits(classifier, pairs).train()
        F.cross_entropy(network(*inputs), labels).backward()
        return {n: p.grad.clone() for n, p in classifier.named_parameters() if p.grad is not None}


def test_only_factors_and_head_are_trained(classifier, pairs, texts):
    found = gradients(classifier, pairs, texts, PAIRS)
    heads = [name for name in found if ".score." in name]
    assert len(heads) == 1
    assert len(found) == 2 * 2 * 2 + 1
    assert all("lora_" in name for name in found if name not in heads)
    assert all(gradient.any() for gradient in found.values())
    # The row of the class that the task does not have learns nothing.
    assert (found[heads[0]].abs().sum(dim=1) > 0).tolist() == [True, False, True]
    assert list(gradients(classifier, pairs, texts, HEAD)) == ["model.score.weight"]


def test_checkpointing_leaves_gradients_as_they_are(classifier, pairs, texts):
    kept = gradients(classifier, pairs, texts, PAIRS)
    again = gradients(classifier, pairs, texts, replace(PAIRS, gradient_checkpointing=True))
    assert kept.keys() == again.keys()
    assert all(torch.equal(gradient, again[name]) for name, gradient in kept.items())


@KINDS
def test_the_base_is_given_back_as_it_was(classifier, llama, plan):
    def fail():
        with in_training(classifier, 3, replace(plan, gradient_checkpointing=True)) as tower:
            spoil(tower)
            raise RuntimeError

    modules, head = dict(classifier.named_modules()), classifier.model.score
    with pytest.raises(RuntimeError):
        fail()
    fresh = load_classifier(ClassifierSpec("tiny", str(llama))).model.model.state_dict()
    state = classifier.model.model.state_dict()
    assert state.keys() == fresh.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in fresh.items())
    assert dict(classifier.named_modules()).keys() == modules.keys()
    assert classifier.model.score is head
    assert not classifier.training
    assert not any(weight.requires_grad for weight in classifier.parameters())
    assert not classifier.model.get_input_embeddings()._forward_hooks


@KINDS
def test_a_fresh_head_follows_from_the_seed_alone(classifier, plan):
    def head(plan, noise):
        with seeded(noise), in_training(classifier, 3, plan) as tower:
            return next(tensor for name, tensor in tower.tensors().items() if "score" in name)

    assert head(plan, 1).shape == (3, classifier.width)
    assert head(plan, 1).dtype == torch.float32
    assert torch.equal(head(plan, 1), head(PAIRS, 2))
    assert not torch.equal(head(plan, 1), head(replace(plan, seed=1), 1))
    assert head(plan, 1).std().item() == pytest.approx(0.02, rel=0.3)


def test_an_adapter_with_its_head_is_one_that_this_project_and_peft_load(classifier, llama, texts, tmp_path):
    tokens, lengths, _ = texts["train"].batch(range(8), classifier.pad)
    with in_training(classifier, 3, PAIRS) as tower:
        changed = spoil(tower)
        tower.save(tmp_path, torch.float32)
        classifier.eval()
        with torch.no_grad():
            expected = classifier.model.score(classifier(tokens, lengths))
    adapter = load_adapter(tmp_path)
    assert adapter.heads.keys() == {"score.weight"}
    assert torch.equal(adapter.heads["score.weight"], changed["base_model.model.score.weight"])
    assert len(adapter.updates) == 4
    assert "base_model.model.score.weight" in load_file(tmp_path / "adapter_model.safetensors")
    base = AutoModelForSequenceClassification.from_pretrained(llama, num_labels=3)
    model = PeftModel.from_pretrained(base, tmp_path).eval()
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    with torch.no_grad():
        logits = model(input_ids=tokens, attention_mask=mask.long()).logits
    torch.testing.assert_close(logits, expected)


def test_a_head_alone_is_one_file(classifier, tmp_path):
    with in_training(classifier, 3, HEAD) as tower:
        changed = spoil(tower)
        tower.save(tmp_path, torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["head.safetensors"]
    saved = load_file(tmp_path / "head.safetensors")
    assert torch.equal(saved["score.weight"], changed["score.weight"].half())


def test_a_base_in_half_precision_stays_so_under_whole_factors_and_head(llama, pairs, texts):
    classifier = load_classifier(ClassifierSpec("tiny", str(llama)), dtype=torch.bfloat16)
    found = gradients(classifier, pairs, texts, PAIRS)
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    assert {tensor.dtype for tensor in classifier.model.model.state_dict().values()} == {torch.bfloat16}
    whole = gradients(load_classifier(ClassifierSpec("tiny", str(llama))), pairs, texts, PAIRS)
    cosines = [
        F.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0)
        for name, gradient in whole.items()
    ]
    assert min(cosines) > 0.9
