"""Plans are read from plain values, and mistakes are named."""

from dataclasses import asdict, replace

import pytest

from knots.errors import KnotsError
from knots.finetuning import parse_plan
from tests.finetuning.conftest import FULL, PLAN

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
