"""Plans are read from plain values, and mistakes are named."""

from dataclasses import asdict, replace

import pytest

from knots.errors import KnotsError
from knots.finetuning import parse_plan
from tests.finetuning.conftest import FULL, HEAD, PAIRS, PLAN

RATES = {4: 8e-4, 16: 3e-4}


def values(plan=PLAN, **changes):
    return {**asdict(plan), "modules": list(plan.modules), **changes}


@pytest.mark.parametrize("plan", [PLAN, FULL])
def test_a_plan_is_read_from_plain_values(plan):
    assert parse_plan(values(plan)) == plan


def test_a_learning_rate_may_follow_from_the_rank():
    assert parse_plan(values(rank=16, learning_rate=RATES)) == replace(PLAN, rank=16, learning_rate=3e-4)


@pytest.mark.parametrize(
    ("plan", "changes", "message"),
    [
        (PLAN, {"step": 3}, r"unknown key of 'finetune': 'step'; did you mean 'steps'"),
        (PLAN, {"kind": "lorra"}, r"unknown finetune.kind 'lorra'; did you mean 'lora'"),
        (
            PLAN,
            {"rank": 8, "learning_rate": RATES},
            r"no number for rank 8 \(it has some for 4, 16\); set one",
        ),
        (FULL, {"learning_rate": RATES}, r"no number for rank None"),
        (PLAN, {"rank": "eight"}, r"finetune.rank must be a whole number, got 'eight'"),
        (PLAN, {"rank": True}, r"finetune.rank must be a whole number, got True"),
        (PLAN, {"rank": 0}, r"finetune.rank must be at least 1, got 0"),
        (PLAN, {"modules": []}, r"finetune.modules is empty"),
        (PLAN, {"modules": "q_proj"}, r"finetune.modules='q_proj'; a list of names"),
        (PLAN, {"steps": 0}, r"finetune.steps must be at least 1"),
        (PLAN, {"precision": "16"}, r"unknown finetune.precision '16'"),
        (PLAN, {"dtype": "bfloat16"}, r"unknown finetune.dtype 'bfloat16'"),
        (PLAN, {"gradient_checkpointing": "yes"}, r"finetune.gradient_checkpointing='yes'; true or false"),
        (PLAN, {"min_delta": -0.1}, r"finetune.min_delta must be a number that is not negative"),
        (FULL, {"rank": 8}, r"finetune.rank=8 is for LoRA"),
        (FULL, {"modules": ["q_proj"]}, r"finetune.modules=\('q_proj',\) is for LoRA"),
        (FULL, {"dropout": 0.1}, r"finetune.dropout=0.1 is for LoRA"),
    ],
)
def test_what_does_not_fit_is_named(plan, changes, message):
    with pytest.raises(KnotsError, match=message):
        parse_plan(values(plan, **changes))


@pytest.mark.parametrize("plan", [PAIRS, HEAD])
def test_a_plan_for_language_is_known_by_its_keys(plan):
    found = parse_plan(values(plan))
    assert found == plan
    assert found.modality == "language"


@pytest.mark.parametrize("warmup", [0.06, 0.0, 0.999])
def test_a_warm_up_may_be_a_share_of_the_steps(warmup):
    assert parse_plan(values(PAIRS, steps=1000, warmup=warmup)).warmup == round(1000 * warmup)
    assert parse_plan(values(PLAN, steps=1000, warmup=warmup)).warmup == round(1000 * warmup)


def test_a_precision_may_be_a_number():
    assert parse_plan(values(PAIRS, base_precision=32)) == PAIRS


@pytest.mark.parametrize(
    ("plan", "changes", "message"),
    [
        (PAIRS, {"scale": 100}, r"finetune.scale is for vision, but the recipe is one for language"),
        (
            PLAN,
            {"schedule": "linear"},
            r"finetune.schedule is for language, but the recipe is one for vision",
        ),
        (PAIRS, {"kind": "full"}, r"unknown finetune.kind 'full' \(known: head, lora\)"),
        (PLAN, {"kind": "head"}, r"unknown finetune.kind 'head' \(known: full, lora\)"),
        (HEAD, {"rank": 8}, r"finetune.rank=8 is for LoRA; kind head trains the head and nothing else"),
        (PAIRS, {"schedule": "line"}, r"unknown finetune.schedule 'line'; did you mean 'linear'"),
        (PAIRS, {"base_precision": "fp16"}, r"unknown finetune.base_precision 'fp16'"),
        (PAIRS, {"accumulate": 0}, r"finetune.accumulate must be at least 1"),
        (PAIRS, {"warmup": 1.0}, r"finetune.warmup=1.0; a whole number of steps, or a share"),
        (PAIRS, {"warmup": -0.1}, r"finetune.warmup=-0.1"),
        (PAIRS, {"rank": 4, "learning_rate": RATES | {4: -1.0}}, r"finetune.learning_rate must be a number"),
    ],
)
def test_what_does_not_fit_a_modality_is_named(plan, changes, message):
    with pytest.raises(KnotsError, match=message):
        parse_plan(values(plan, **changes))


def test_a_key_that_a_modality_needs_is_missed():
    config = values(PAIRS)
    del config["accumulate"]
    with pytest.raises(KnotsError, match=r"finetune lacks 'accumulate'"):
        parse_plan(config)
