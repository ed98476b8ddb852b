"""The content of metrics.json."""

import json
from collections.abc import Sequence

import numpy as np
import pytest

from knots.adapters import Adapter
from knots.errors import KnotsError
from knots.evaluation import EvaluationResult, Finetuned, Merged, ZeroShot, summarize
from tests.evaluation.conftest import Score
from tests.miniatures import tiny_suite

# Lightning's pytree code meets a class that PyTorch 2.15 is about to drop.

DESCRIPTION = {"kind": "merged", "method": "knots_ties", "scale": 0.6}


@pytest.fixture
def merged(score: Score, adapters: Sequence[Adapter]) -> EvaluationResult:
    return score(Merged(adapters[1]))


@pytest.fixture
def zero_shot(score: Score) -> EvaluationResult:
    return score(ZeroShot())


@pytest.fixture
def finetuned(score: Score, adapters: Sequence[Adapter]) -> EvaluationResult:
    return score(Finetuned(adapters))


def keys(value: object) -> object:
    """The nested keys of a summary, without its values."""
    if not isinstance(value, dict):
        return None
    return {name: keys(inner) for name, inner in value.items()}


def test_numbers(merged: EvaluationResult, zero_shot: EvaluationResult, finetuned: EvaluationResult):
    metrics = summarize(
        merged, model="tiny", merge=DESCRIPTION, seed=3, zero_shot=zero_shot, finetuned=finetuned
    )
    assert json.loads(json.dumps(metrics)) == metrics
    assert (metrics["schema"], metrics["model"], metrics["suite"], metrics["seed"]) == (1, "tiny", "tiny", 3)
    assert metrics["merge"] == DESCRIPTION
    ratios = []
    for i, (task, row) in enumerate(metrics["per_task"].items()):
        assert task == tiny_suite().task_names[i]
        n = row["n"]
        assert n == [21, 34, 13][i]
        assert row["accuracy"] == pytest.approx(100 * merged.correct[i] / n)
        assert row["zero_shot"] == pytest.approx(100 * zero_shot.correct[i] / n)
        assert row["finetuned"] == pytest.approx(100 * finetuned.correct[i] / n)
        ratios.append(100 * merged.correct[i] / finetuned.correct[i])
        assert row["normalized"] == pytest.approx(ratios[-1])
        assert row["ci95"][0] <= row["accuracy"] <= row["ci95"][1]
    # The second task is scored with its own adapter in both.
    assert metrics["per_task"]["patterns"]["normalized_ci95"] == pytest.approx([100, 100])
    average = metrics["average"]
    assert average["normalized"] == pytest.approx(np.mean(ratios))
    assert average["accuracy"] == pytest.approx(100 * np.mean(merged.accuracies))
    for key in ("accuracy", "normalized"):
        assert average[f"{key}_ci95"][0] <= average[key] <= average[f"{key}_ci95"][1]
    joint = metrics["joint"]
    assert (joint["classes"], joint["n"]) == (7, 68)
    assert joint["hits@3"] == pytest.approx(100 * merged.joint.hits[:, 1].sum() / 68)
    assert joint["macro"]["hits@3"] == pytest.approx(100 * np.mean(merged.joint.hits[:, 1] / merged.n))
    assert joint["hits@1"] <= joint["hits_dedup@1"]
    assert joint["ci95"]["hits@1"][0] <= joint["hits@1"] <= joint["ci95"]["hits@1"][1]
    assert joint["leakage"][1][0] == pytest.approx(100 * merged.joint.leaks[1, 0] / merged.joint.errors[1])


def test_finetuned_is_its_own_measure(finetuned: EvaluationResult):
    metrics = summarize(finetuned, model="tiny", merge={"kind": "finetuned"}, seed=0, finetuned=finetuned)
    assert metrics["average"]["normalized"] == pytest.approx(100)
    assert metrics["average"]["normalized_ci95"] == pytest.approx([100, 100])


def test_published_accuracies_can_be_divided_by(merged: EvaluationResult, finetuned: EvaluationResult):
    published = {"numbers": 80.0, "patterns": 50.0, "digits": 40.0}
    metrics = summarize(
        merged, model="tiny", merge=DESCRIPTION, seed=0, finetuned=finetuned, published=published
    )
    row = metrics["per_task"]["numbers"]
    assert row["finetuned"] == 80
    assert row["normalized"] == pytest.approx(100 * row["accuracy"] / 80)
    assert row["normalized_ci95"][0] < row["normalized"] < row["normalized_ci95"][1]
    with pytest.raises(KnotsError, match="no published fine-tuned accuracy for task 'digits'"):
        summarize(merged, model="tiny", merge={}, seed=0, published={"numbers": 1, "patterns": 1})


def test_every_key_is_always_there(score: Score, merged: EvaluationResult, finetuned: EvaluationResult):
    whole = summarize(merged, model="tiny", merge=DESCRIPTION, seed=0, finetuned=finetuned)
    bare = {"model": "tiny", "merge": DESCRIPTION, "seed": 0}
    per_task = summarize(score(ZeroShot(), mode="per_task"), **bare)
    joint = summarize(score(ZeroShot(), mode="joint"), **bare)
    empty = summarize(score(ZeroShot(), suite=tiny_suite(dict.fromkeys(tiny_suite().task_names, 0))), **bare)
    for metrics in (per_task, joint, empty):
        shape = keys(metrics)
        assert isinstance(shape, dict)
        assert shape.keys() == keys(whole).keys()
        assert shape["per_task"] == keys(whole)["per_task"]
        assert shape["average"] == keys(whole)["average"]
        assert shape["joint"].keys() == keys(whole)["joint"].keys()
    assert set(per_task["joint"].values()) == {None}
    assert per_task["average"]["accuracy"] is not None
    assert per_task["average"]["normalized"] is None
    assert set(joint["average"].values()) == {None}
    assert joint["joint"]["hits@1"] is not None
    assert set(empty["average"].values()) == {None}


def test_results_of_other_items_are_refused(merged: EvaluationResult, score: Score):
    other = score(ZeroShot(), suite=tiny_suite({"numbers": 20, "patterns": 34, "digits": 13}))
    with pytest.raises(KnotsError, match=r"zero_shot baseline .* numbers of items are \[20, 34, 13\]"):
        summarize(merged, model="tiny", merge={}, seed=0, zero_shot=other)
