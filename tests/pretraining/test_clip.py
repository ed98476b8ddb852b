"""A handful of steps make a base that transformers loads, the same one for the same seed."""

from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPModel

from knots.errors import KnotsError
from knots.models.clip import ClipSpec, load_clip
from knots.pretraining.clip import (
    BaseShape,
    Pretraining,
    build_clip,
    build_tokenizer,
    parse_plan,
    parse_shape,
    pretrain_clip,
)
from knots.suites.miniature.web import KINDS, WebStyle, captions

SHAPE = {
    "width": 16, "layers": 1, "heads": 2, "patch": 16, "text_width": 8, "text_layers": 1, "text_heads": 2,
    "projection": 8,
}  # fmt: skip
PLAN = {
    "pictures": 64, "steps": 3, "batch_size": 16, "learning_rate": 1e-3, "warmup": 1, "weight_decay": 0.1,
    "seed": 0,
    "web": {"strength": dict.fromkeys(KINDS, 0.5), "coarse": 0.2, "wrong": 0.1},
}  # fmt: skip
TRAINER = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain") / "base"
    pretrain_clip(parse_shape(SHAPE), parse_plan(PLAN), folder, TRAINER, workers=1)
    return folder


def test_the_base_is_one_that_models_load(base):
    clip = load_clip(ClipSpec("base", str(base)))
    images = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    assert clip(images).shape == (2, 8)
    assert clip.encode_text(["a photo of a stop sign"]).shape == (1, 8)
    assert clip.normalize(images).unique().tolist() == [-1.0]


def test_the_base_is_saved_in_half_precision_and_names_no_machine(base):
    assert {tensor.dtype for tensor in load_file(base / "model.safetensors").values()} == {torch.float16}
    assert (
        str(base.parent)
        not in (base / "config.json").read_text() + (base / "tokenizer_config.json").read_text()
    )


def test_the_same_seed_trains_the_same_base_and_another_one_another(base, tmp_path):
    pretrain_clip(parse_shape(SHAPE), parse_plan(PLAN), tmp_path / "again", TRAINER, workers=2)
    pretrain_clip(parse_shape(SHAPE), parse_plan({**PLAN, "seed": 1}), tmp_path / "other", TRAINER, workers=1)
    weights, again, other = (
        load_file(folder / "model.safetensors") for folder in (base, tmp_path / "again", tmp_path / "other")
    )
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert any(not torch.equal(weights[name], other[name]) for name in weights)


def test_training_lowers_the_loss():
    said = captions()
    tokenizer = build_tokenizer([text for texts in said.texts for text in texts])
    model = build_clip(BaseShape(**SHAPE), tokenizer, seed=0)
    module = Pretraining(model, tokenizer, said, parse_plan(PLAN))
    module.log = Mock()  # there is no trainer to log to
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    batch = (
        torch.randint(0, 256, (32, 32, 32, 3), generator=generator).byte(),
        torch.randint(0, len(said.texts), (32,), generator=generator),
    )
    losses = []
    for step in range(1, 40):
        loss = module.training_step(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_kind_is_no_wrong_caption_of_its_own_classes():
    said = captions()
    tokenizer = build_tokenizer([text for texts in said.texts for text in texts])
    module = Pretraining(build_clip(BaseShape(**SHAPE), tokenizer, 0), tokenizer, said, parse_plan(PLAN))
    number, letter = len(said.texts) - 7, len(said.texts) - 6
    assert said.texts[number][0] == "a number"
    assert module.excused[0, number]
    assert module.excused[number, 0]
    assert not module.excused[0, letter]
    assert not module.excused[0, 1]
    assert not module.excused.diagonal().any()


def test_every_way_to_say_a_thing_has_its_own_tokens():
    said = captions()
    texts = [text for texts in said.texts for text in texts]
    tokenizer = build_tokenizer(texts)
    tokens = [tuple(tokenizer(text)["input_ids"]) for text in set(texts)]
    assert len(set(tokens)) == len(tokens)
    assert all(tokenizer.unk_token_id not in ids for ids in tokens)
    assert max(map(len, tokens)) <= tokenizer.model_max_length


def test_a_failed_training_leaves_no_folder(tmp_path):
    with pytest.raises(KnotsError, match=r"unknown key of 'plan.web': 'strengh'; did you mean 'strength'"):
        parse_plan({**PLAN, "web": {"strengh": {}, "coarse": 0.2, "wrong": 0.1}})
    assert isinstance(parse_plan(PLAN).web, WebStyle)
    with pytest.raises(ValueError, match="accelerator"):
        pretrain_clip(
            parse_shape(SHAPE), parse_plan(PLAN), tmp_path / "b", {"accelerator": "abacus"}, workers=1
        )
    assert list(tmp_path.iterdir()) == []


def test_transformers_loads_the_base_alone(base):
    assert AutoTokenizer.from_pretrained(base)("a stop sign")["input_ids"][0] == 1
    assert CLIPModel.from_pretrained(base, dtype=torch.float32).config.projection_dim == 8
