import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.utils.other import get_pattern_key

from knots.adapters.config import IGNORED, READ, REFUSED, Patterns, read_settings
from knots.errors import KnotsError


def write(folder: Path, text: str) -> Path:
    file = folder / "adapter_config.json"
    file.write_text(text)
    return file


def test_every_option_of_peft_is_decided_once() -> None:
    tables = (READ, frozenset(REFUSED), IGNORED)
    assert sum(map(len, tables)) == len(frozenset.union(*tables))
    options = {field.name for field in dataclasses.fields(LoraConfig)}
    assert options - frozenset.union(*tables) == set()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ('"peft_type": "LOHA"', "peft_type='LOHA' is not LORA"),
        ('"peft_type": null', "peft_type=None is not LORA"),
        ('"use_dora": true', "use_dora=true: DoRA .*merge_and_unload"),
        ('"lora_bias": true', "lora_bias=true"),
        ('"bias": "lora_only"', "bias='lora_only'"),
        ('"bias": "all"', "bias='all'"),
        ('"use_qalora": true', "use_qalora=true"),
        ('"kasa_config": {"beta": 1}', 'kasa_config={"beta": 1}: KaSA'),
        ('"use_bdlora": {"nblocks": 2}', "use_bdlora"),
        ('"monteclora_config": {"a": 1}', "monteclora_config"),
        ('"arrow_config": {"top_k": 1}', "arrow_config"),
        (
            '"alora_invocation_tokens": [1, 2]',
            r"alora_invocation_tokens=\[1, 2\]: aLoRA .*train a plain LoRA",
        ),
        ('"trainable_token_indices": [0]', "trainable_token_indices"),
        ('"target_parameters": ["experts.w"]', "target_parameters"),
        ('"layer_replication": [[0, 2]]', "layer_replication"),
        ('"init_lora_weights": "pissa"', "init_lora_weights='pissa' changes the base .*path_initial_model"),
        ('"init_lora_weights": "pissa_niter_4"', "init_lora_weights='pissa_niter_4' changes the base"),
        ('"init_lora_weights": "olora"', "'olora' changes the base"),
        ('"init_lora_weights": "corda"', "'corda' changes the base"),
        ('"init_lora_weights": "loftq"', "'loftq' changes the base .*train a plain LoRA"),
        ('"init_lora_weights": "brand_new"', "'brand_new' is unknown and may change the base"),
        ('"r": "four"', 'r="four" must be a number of 1 or more'),
        ('"r": 0', "r=0 must be a number of 1 or more"),
        ('"lora_alpha": null', "lora_alpha=null must be a number"),
        ('"rank_pattern": [1]', r"rank_pattern=\[1\] must map module names to numbers"),
        ('"rank_pattern": {"q": 0}', r"rank_pattern\['q'\]=0 must be a number of 1 or more"),
        ('"alpha_pattern": {"q": "x"}', r"alpha_pattern\['q'\]"),
    ],
)
def test_what_is_not_plain_lora_is_refused(tmp_path: Path, option: str, message: str) -> None:
    file = write(tmp_path, f'{{"peft_type": "LORA", {option}}}')
    with pytest.raises(KnotsError, match=message) as caught:
        read_settings(file, "digits")
    assert "adapter 'digits'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("init", ["true", "false", '"gaussian"', '"eva"', '"orthogonal"', '"mica"', "null"])
def test_initializations_that_leave_the_base_as_it_is(tmp_path: Path, init: str) -> None:
    file = write(tmp_path, f'{{"peft_type": "LORA", "init_lora_weights": {init}}}')
    found = read_settings(file, "digits")
    assert (found.rank, found.alpha) == (8, 8)


@pytest.mark.parametrize("text", ["", "{", '{"r": 1,}', "\x80"])
def test_invalid_json(tmp_path: Path, text: str) -> None:
    file = tmp_path / "adapter_config.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(KnotsError, match=r"adapter_config\.json is not valid JSON") as caught:
        read_settings(file, "digits")
    assert "\n" not in str(caught.value)


def test_json_that_is_no_object(tmp_path: Path) -> None:
    with pytest.raises(KnotsError, match="must hold a JSON object, it holds a list"):
        read_settings(write(tmp_path, "[]"), "digits")


def test_unknown_options_are_named(tmp_path: Path) -> None:
    file = write(tmp_path, '{"peft_type": "LORA", "use_novelty": true, "other": null}')
    with pytest.warns(UserWarning, match="unknown options, not used: use_novelty"):
        read_settings(file, "digits")


def test_pattern_that_is_no_regular_expression(tmp_path: Path) -> None:
    found = read_settings(write(tmp_path, '{"peft_type": "LORA", "rank_pattern": {"q(": 2}}'), "digits")
    with pytest.raises(KnotsError, match=r"pattern 'q\(' is not a regular expression"):
        found.rank_and_scaling(["layers.0.q"])


PIECES = st.sampled_from(["h", "1", "11", "q", "kq", "encoder", r"\d+", "^encoder", "q|kq", ".*"])
NAMES = st.lists(st.sampled_from(["h", "1", "11", "q", "kq", "encoder"]), min_size=1, max_size=4)


@settings(deadline=None)
@given(
    keys=st.lists(st.lists(PIECES, min_size=1, max_size=3).map(".".join), max_size=4),
    name=NAMES.map(".".join),
)
def test_patterns_match_as_in_peft(keys: list[str], name: str) -> None:
    assert Patterns(keys).key(name) == get_pattern_key(keys, name)
