"""The card says what was trained from what on what, and nothing of the machine."""

import getpass
from dataclasses import replace

import pytest
import yaml

from knots.finetuning import Origin, finetune, parse_plan
from tests.finetuning.conftest import FULL, ORIGIN, PLAN, TRAINER


@pytest.mark.parametrize("plan", [PLAN, FULL], ids=["lora", "full"])
def test_a_card_tells_base_data_recipe_and_accuracies(clip, task, splits, tmp_path, plan):
    found = finetune(clip, task, splits, plan, tmp_path / "numbers", TRAINER, origin=ORIGIN)
    card = (tmp_path / "numbers" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "owner/tiny-clip"
    assert front["library_name"] == ("peft" if plan.kind == "lora" else "transformers")
    recipe = yaml.safe_load(card.split("```yaml")[1].split("```")[0])
    assert parse_plan(recipe) == plan
    for text in (
        "`owner/tiny-clip` at revision `abc123`",
        "suite `tiny`, 3 classes",
        "train 48 pictures, validation 48 pictures",
        "The test split was not used",
        f"{found['finetuned']:.2f} %",
        f"{found['zero_shot']:.2f} %",
        "torch 2.",
    ):
        assert text in card


@pytest.mark.parametrize("where", ["{tmp}", "{tmp}/base", "~/base", "./base"])
def test_a_card_names_no_path_of_this_machine(clip, task, splits, tmp_path, where):
    base = where.format(tmp=tmp_path)
    origin = replace(ORIGIN, base=base, revision=None)
    finetune(clip, task, splits, replace(PLAN, steps=4), tmp_path / "numbers", TRAINER, origin=origin)
    card = (tmp_path / "numbers" / "README.md").read_text()
    assert "base_model" not in card
    assert base not in card
    assert str(tmp_path) not in card
    assert f"/{getpass.getuser()}" not in card


def test_an_asset_is_named_as_it_is():
    assert Origin("mini_clip", "asset:mini_clip/base", None, "s").public_base == "asset:mini_clip/base"
