"""Training on pairs of sentences: loss, starting point, learning, results and going on after a stop."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from knots.adapters import load_adapter
from knots.errors import KnotsError
from knots.finetuning import finetune, finetune_tasks, parse_plan
from knots.finetuning.checkpoint import training_folder
from knots.finetuning.decoders import in_training
from knots.finetuning.module import Finetuning
from knots.finetuning.pairs import PairLesson, PairLogits
from knots.models.classifier import ClassifierSpec, load_classifier
from knots.suites.tasks import Suite
from knots.suites.texts import TextArrays
from knots.training import TextBatches
from tests.finetuning.conftest import HEAD, ORIGIN, PAIRS, PLAN, TRAINER
from tests.finetuning.test_checkpoint import StoppedError, tensors, watched
from tests.language import SPECIAL, WORDS, tiny_text_arrays, tiny_text_task
from tests.miniatures import tiny_suite


def train(classifier, task, texts, plan, place, **options):
    return finetune(classifier, task, texts, plan, place, {**TRAINER, **options}, origin=ORIGIN)


def told_by_a_word(count, seed):
    """Pairs whose second sentence ends with one of two words, which says what they are."""
    noise = tiny_text_arrays(count, seed, classes=(0, 2))
    tokens = noise.tokens.copy()
    answers = [len(SPECIAL) + WORDS.index(word) for word in ("yes", "no")]
    tokens[noise.starts[1:] - 1] = np.where(noise.labels == 0, *answers)
    return TextArrays(tokens, noise.starts, noise.labels)


def test_the_loss_is_that_of_transformers_with_masked_logits(classifier, llama, pairs, texts, tmp_path):
    """One step by hand: PEFT's model, transformers' own pooling, its loss over logits with -1e10."""
    losses, plan = [], replace(PAIRS, steps=1, validate_every=1, dropout=0.0)
    original = Finetuning.training_step

    def noted(self, batch, step):
        losses.append(original(self, batch, step))
        return losses[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Finetuning, "training_step", noted)
        train(classifier, pairs, texts, replace(plan, learning_rate=0.0), tmp_path / "a")
    base = AutoModelForSequenceClassification.from_pretrained(llama, num_labels=3)
    base.config.pad_token_id = classifier.pad
    start = PeftModel.from_pretrained(base, tmp_path / "a").eval()
    tokens, lengths, labels = next(iter(TextBatches(texts["train"], classifier.pad, 8, plan.seed)))
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    logits = start(input_ids=tokens, attention_mask=mask.long()).logits
    logits[:, 1] = -1e10
    torch.testing.assert_close(losses[0].detach(), F.cross_entropy(logits, labels).detach())


def test_an_absent_class_is_never_the_answer(classifier, texts):
    tokens, lengths, _ = texts["train"].batch(range(16), classifier.pad)
    with in_training(classifier, 3, HEAD), torch.no_grad():
        free = PairLogits(classifier, tiny_text_task())(tokens, lengths)
        masked = PairLogits(classifier, tiny_text_task(absent=["entailment", "neutral"]))(tokens, lengths)
    assert free.dtype == torch.float32
    assert set(masked.argmax(dim=1).tolist()) == {2}
    assert torch.equal(masked[:, 2], free[:, 2])


@pytest.mark.parametrize("plan", [PAIRS, HEAD], ids=["lora", "head"])
def test_all_tasks_start_from_the_same_matrix_and_head(classifier, texts, tmp_path, plan):
    still = replace(plan, learning_rate=0.0)
    tasks = tiny_text_task("first"), tiny_text_task("second", absent=["neutral"])
    for task in tasks:
        train(classifier, task, texts, still, tmp_path / task.name)
    train(classifier, tasks[0], texts, replace(still, seed=1), tmp_path / "other")
    first, second, other = (tensors(tmp_path / name) for name in ("first", "second", "other"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert any("score" in name for name in first)
    assert not any(torch.equal(tensor, other[name]) for name, tensor in first.items() if "lora_B" not in name)


@pytest.mark.parametrize("plan", [PAIRS, HEAD], ids=["lora", "head"])
def test_training_learns_what_can_be_learnt(classifier, pairs, tmp_path, plan):
    texts = {split: told_by_a_word(96, seed) for seed, split in enumerate(("train", "validation"))}
    plan = replace(plan, steps=80, validate_every=20, learning_rate=3e-2)
    found = train(classifier, pairs, texts, plan, tmp_path / "a")
    assert set(found) == {"untrained", "finetuned"}
    assert found["finetuned"] > max(90.0, found["untrained"])


def test_what_is_saved_is_what_was_validated(classifier, llama, pairs, texts, tmp_path):
    found = train(classifier, pairs, texts, PAIRS, tmp_path / "a")
    base = AutoModelForSequenceClassification.from_pretrained(llama, num_labels=3)
    model = PeftModel.from_pretrained(base, tmp_path / "a").eval()
    right = 0
    for item in range(len(texts["validation"])):
        tokens, _, labels = texts["validation"].batch([item], classifier.pad)
        with torch.no_grad():
            logits = model(input_ids=tokens).logits
        right += int(logits[0, [0, 2]].argmax()) * 2 == int(labels)
    assert found["finetuned"] == pytest.approx(100 * right / len(texts["validation"]))
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
    assert config["base_model_name_or_path"] is None
    assert load_adapter(tmp_path / "a").heads["score.weight"].shape == (3, classifier.width)


@pytest.mark.parametrize("stop", [4, 7, 11])
@pytest.mark.parametrize(
    "plan",
    [PAIRS, HEAD, replace(PAIRS, gradient_checkpointing=True), replace(PAIRS, accumulate=2, batch_size=4)],
    ids=["lora", "head", "checkpointing", "accumulate"],
)
def test_a_stopped_training_goes_on_to_the_same_end(classifier, pairs, texts, tmp_path, plan, stop):
    with watched(stop), pytest.raises(StoppedError):
        train(classifier, pairs, texts, plan, tmp_path / "stopped")
    assert [path.name for path in tmp_path.iterdir()] == [".stopped.training"]
    with watched() as steps:
        found = train(classifier, pairs, texts, plan, tmp_path / "stopped")
    assert sorted(set(steps)) == list(range(4 * (stop // 4), 12))
    assert found == train(classifier, pairs, texts, plan, tmp_path / "whole")
    whole, resumed = tensors(tmp_path / "whole"), tensors(tmp_path / "stopped")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_accumulated_batches_count_as_one_step(classifier, pairs, texts, tmp_path, caplog):
    caplog.set_level("INFO")
    with watched() as steps:
        train(classifier, pairs, texts, replace(PAIRS, accumulate=3, steps=8), tmp_path / "a")
    assert len(steps) == 3 * 8
    said = [int(line.split(":")[0].split()[1]) for line in caplog.messages if "validation accuracy" in line]
    assert said == [0, 4, 8]


@pytest.mark.parametrize(
    ("change", "named"),
    [("texts", "train data"), ("task", "classes"), ("base", "base")],
)
def test_a_checkpoint_of_another_training_is_not_used(
    classifier, pairs, texts, tmp_path, caplog, monkeypatch, change, named
):
    with watched(6), pytest.raises(StoppedError):
        train(classifier, pairs, texts, PAIRS, tmp_path / "a")
    if change == "texts":
        texts = {**texts, "train": tiny_text_arrays(48, 7, classes=(0, 2))}
    if change == "task":
        pairs = tiny_text_task("pairs")
    if change == "base":
        monkeypatch.setattr(classifier, "base", replace(classifier.base, identity={"content": "another"}))
    train(classifier, pairs, texts, PAIRS, tmp_path / "a")
    assert f"(it differs in {named}); starting anew" in caplog.text
    assert not training_folder(tmp_path / "a").exists()


def test_training_in_half_precision_gives_a_whole_adapter(llama, pairs, texts, tmp_path):
    classifier = load_classifier(ClassifierSpec("tiny", str(llama)), dtype=torch.bfloat16)
    plan = replace(PAIRS, base_precision="bf16", precision="bf16-mixed")
    train(classifier, pairs, texts, plan, tmp_path / "a")
    saved = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    # Numbers that bf16 does not have: the weights themselves were trained in float32.
    assert not any(torch.equal(t, t.bfloat16().float()) for name, t in saved.items() if "lora_B" in name)
    with pytest.raises(KnotsError, match=r"base is in torch.bfloat16, but finetune.base_precision is 32"):
        PairLesson(classifier, pairs, texts, PAIRS)


@pytest.mark.parametrize("plan", [PAIRS, HEAD], ids=["lora", "head"])
def test_a_card_tells_base_data_recipe_and_accuracies(classifier, pairs, texts, tmp_path, plan):
    texts = {**texts, "train": replace(texts["train"], cut=5)}
    found = train(classifier, pairs, texts, plan, tmp_path / "a")
    card = (tmp_path / "a" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "owner/tiny-clip"
    assert front["tags"] == ["text-classification", "natural-language-inference"]
    assert front["library_name"] == ("peft" if plan.kind == "lora" else "safetensors")
    assert parse_plan(yaml.safe_load(card.split("```yaml")[1].split("```")[0])) == plan
    trained = "LoRA adapter with its head" if plan.kind == "lora" else "linear head"
    for text in (
        f"# pairs: {trained} of tiny\n",
        f"(files: SHA-256 `{classifier.base.identity['content'][:16]}`)",
        "3 classes in the head: `entailment`, `neutral`, `contradiction`; masked, as the task has none: "
        "`neutral`\n",
        "train 48 pairs (5 of them cut), validation 48 pairs. The test split was not used",
        f"{found['finetuned']:.2f} % (with a head that was not trained: {found['untrained']:.2f} %)",
    ):
        assert text in card
    assert "picture" not in card
    assert "prompt" not in card


@pytest.fixture
def language_suite(monkeypatch):
    """A suite of two tasks whose splits are random words."""
    asked = []

    def load_split(task, split, cache_dir, reading):
        asked.append((task.name, split, reading.identity.keys()))
        return tiny_text_arrays(task.size(split), len(asked), classes=(0, 2))

    monkeypatch.setattr("knots.finetuning.run.load_split", load_split)
    tasks = tiny_text_task("first", absent=["neutral"]), tiny_text_task("second")
    return Suite("tiny_nli", "language", tasks), asked


def tasks_of(llama, suite, plan, tmp_path, spec=None):
    spec = spec or ClassifierSpec("tiny", str(llama))
    options = {"cache_dir": tmp_path / "cache", "force": False}
    return dict(finetune_tasks(spec, suite, "all", plan, tmp_path / "out", TRAINER, **options))


def test_all_tasks_of_a_suite_are_trained_and_finished_ones_skipped(llama, language_suite, tmp_path):
    suite, asked = language_suite
    plan = replace(PAIRS, steps=4)
    results = tasks_of(llama, suite, plan, tmp_path)
    assert list(results) == ["first", "second"]
    assert all(set(found) == {"untrained", "finetuned"} for found in results.values())
    assert [one[:2] for one in asked] == [(n, s) for n in results for s in ("train", "validation")]
    assert all(one[2] == {"tokenizer"} for one in asked)
    assert tasks_of(llama, suite, plan, tmp_path) == {"first": None, "second": None}
    with pytest.raises(KnotsError, match=r"no result of finetune.kind=head .* force=true"):
        tasks_of(llama, suite, replace(HEAD, steps=4), tmp_path)


def test_the_base_is_loaded_in_the_plan_s_precision(llama, language_suite, tmp_path, monkeypatch):
    suite, _ = language_suite
    seen = []
    monkeypatch.setattr(
        "knots.finetuning.run.finetune", lambda model, *_, **__: seen.append(model.dtype) or {"finetuned": 0}
    )
    for precision in ("32", "bf16"):
        tasks_of(llama, suite, replace(PAIRS, base_precision=precision), tmp_path)
    assert seen == [torch.float32] * 2 + [torch.bfloat16] * 2


def test_what_is_of_another_modality_is_refused_before_anything_is_loaded(language_suite, tmp_path):
    suite, _ = language_suite
    nowhere = ClassifierSpec("nowhere", "/no/such/folder")
    with pytest.raises(KnotsError, match=r"suite 'tiny' is of vision, but model 'nowhere' takes language"):
        tasks_of(None, tiny_suite(), PAIRS, tmp_path, nowhere)
    with pytest.raises(KnotsError, match=r"one for vision, but model 'nowhere' takes language.*finetune="):
        tasks_of(None, suite, PLAN, tmp_path, nowhere)


def test_what_does_not_go_together_is_refused(classifier, task, splits, tmp_path):
    with pytest.raises(KnotsError, match=r"'numbers', a Classifier and a recipe for language"):
        train(classifier, task, splits, PAIRS, tmp_path / "a")


@pytest.mark.gpu
@pytest.mark.parametrize("base", ["32", "bf16"])
def test_it_trains_on_a_gpu_and_goes_on_there(llama, pairs, texts, tmp_path, base):
    dtype = torch.bfloat16 if base == "bf16" else torch.float32
    classifier = load_classifier(ClassifierSpec("tiny", str(llama)), dtype=dtype)
    plan = replace(PAIRS, base_precision=base, precision="bf16-mixed")
    with watched(7), pytest.raises(StoppedError):
        train(classifier, pairs, texts, plan, tmp_path / "a", accelerator="gpu", devices=1)
    found = train(classifier, pairs, texts, plan, tmp_path / "a", accelerator="gpu", devices=1)
    assert found["finetuned"] >= 0
    assert classifier.device.type == "cpu"
