"""A handful of steps make a Llama that transformers and `knots` load, the same one for the same seed."""

from itertools import islice
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM

from knots.errors import KnotsError
from knots.models.classifier import ClassifierSpec, classifier_reading, load_classifier
from knots.pretraining import pretrain
from knots.pretraining.llama import (
    DocumentBatches,
    LlamaPretraining,
    build_llama,
    build_reader,
    parse_plan,
    parse_shape,
)
from knots.suites.mini_nli import TASKS, draw_pairs
from knots.suites.mini_nli.corpus import documents, vocabulary

SHAPE = {"width": 16, "layers": 1, "heads": 2, "key_value_heads": 1, "feed_forward": 32}
CORPUS = {
    "facts": 0.2, "sentences": 4, "asked": 0.5, "short": 0.3, "echoes": 0.2, "remarks": 2, "conclusions": 0.5,
    "wrong": 0.1,
}  # fmt: skip
PLAN = {
    "steps": 3, "batch_size": 4, "learning_rate": 1e-3, "warmup": 1, "weight_decay": 0.1, "clip": 1.0,
    "precision": "32-true", "seed": 0, "corpus": CORPUS,
}  # fmt: skip
TRAINER = {"accelerator": "cpu", "enable_progress_bar": False}


def config(**plan):
    return {"family": "llama", "shape": SHAPE, "plan": {**PLAN, **plan}}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain") / "base"
    pretrain(config(), folder, TRAINER)
    return folder


@pytest.fixture(scope="module")
def reader():
    return build_reader(vocabulary())


def test_the_base_is_a_classifier_whose_keys_and_values_are_shared(base):
    classifier = load_classifier(ClassifierSpec("base", str(base)))
    attention = classifier.tower.get_submodule("model.layers.0.self_attn")
    assert (attention.q_proj.out_features, attention.k_proj.out_features) == (16, 8)
    tokens = torch.tensor([[1, 5, 6], [1, 7, 0]])
    assert classifier(tokens, torch.tensor([3, 2])).shape == (2, 16)
    assert classifier.pad == 0


def test_the_base_is_saved_in_half_precision_and_names_no_machine(base):
    assert {tensor.dtype for tensor in load_file(base / "model.safetensors").values()} == {torch.float16}
    told = "".join(path.read_text() for path in base.glob("*.json"))
    assert str(base.parent) not in told


def test_the_tokenizer_joins_pairs_as_llama_does_and_knows_every_word(base):
    tokenizer = classifier_reading(load_classifier(ClassifierSpec("base", str(base))).base).tokenizer
    joined = tokenizer("the boy sleeps .", "the boy rests .")
    assert set(joined) == {"input_ids", "attention_mask"}
    told = tokenizer.convert_ids_to_tokens(joined["input_ids"])
    assert told == ["<s>", "the", "boy", "sleeps", ".", "<s>", "the", "boy", "rests", "."]
    assert tokenizer("a", "b", padding="max_length", max_length=8)["attention_mask"][-1] == 0
    for task in TASKS:
        firsts, seconds, _ = draw_pairs(task, "test", 500, 0)
        rows = tokenizer(firsts, seconds)["input_ids"]
        assert max(map(len, rows)) <= 32
        assert not any(tokenizer.unk_token_id in row for row in rows)


def test_the_same_seed_trains_the_same_base_and_another_one_another(base, tmp_path):
    pretrain(config(), tmp_path / "again", TRAINER)
    pretrain(config(seed=1), tmp_path / "other", TRAINER)
    weights, again, other = (
        load_file(folder / "model.safetensors") for folder in (base, tmp_path / "again", tmp_path / "other")
    )
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert any(not torch.equal(weights[name], other[name]) for name in weights)


def test_a_batch_holds_the_documents_and_learns_what_follows(reader):
    plan = parse_plan(PLAN)
    tokens, learnt = next(iter(DocumentBatches(reader, plan)))
    told = islice(documents(plan.corpus, plan.seed), plan.batch_size)
    for row, wanted, document in zip(tokens, learnt, told, strict=True):
        words = reader.convert_ids_to_tokens(row[row != reader.pad_token_id])
        assert " ".join(words) == " ".join(f"<s> {paragraph.text}" for paragraph in document)
        follows = reader.convert_ids_to_tokens(row[wanted])
        assert follows == " ".join(paragraph.follows for paragraph in document).split()


def test_training_lowers_the_loss(reader):
    plan = parse_plan({**PLAN, "batch_size": 16})
    module = LlamaPretraining(build_llama(parse_shape(SHAPE), reader, seed=0), plan)
    module.log = Mock()  # there is no trainer to log to
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    losses = []
    for step, batch in enumerate(islice(DocumentBatches(reader, plan), 40), start=1):
        loss = module.training_step(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_transformers_loads_the_base_alone(base):
    tokens = AutoTokenizer.from_pretrained(base)("the boy sleeps .", return_tensors="pt")
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert model(**tokens).logits.shape == (1, 5, len(vocabulary()) + 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "lama"}, "unknown family of a miniature base 'lama'; did you mean 'llama'"),
        ({"shape": {**SHAPE, "heads": 3}}, "shape.width=16 must be an even number for each of shape.heads=3"),
        ({"shape": {**SHAPE, "key_value_heads": 4}}, "shape.heads=2 must be a multiple"),
        (
            {"plan": {**PLAN, "corpus": {**CORPUS, "facts": 2}}},
            r"plan.corpus.facts must be .*, got 2",
        ),
        ({"plan": {**PLAN, "corpus": {}}}, "plan.corpus lacks 'facts'"),
    ],
)
def test_mistakes_are_named_and_leave_no_folder(changes, message, tmp_path):
    with pytest.raises(KnotsError, match=message):
        pretrain({**config(), **changes}, tmp_path / "base", TRAINER)
    assert list(tmp_path.iterdir()) == []
