"""Minimal detectable differences: found as often as promised, and those of the two real benchmarks."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from experiments._cli import CONF
from knots.analysis.statistics import detectable, detectable_by, mcnemar, planned_error
from knots.errors import KnotsError


def test_the_sum_of_two_quantiles():
    assert detectable(1.0) == pytest.approx(1.959964 + 0.841621)
    assert detectable(0.5, power=0.5, level=0.1) == pytest.approx(0.5 * 1.644854, abs=1e-6)


def test_an_interval_says_the_same_as_its_error():
    assert detectable_by((0.3 - 1.959964, 0.3 + 1.959964)) == pytest.approx(detectable(1.0))


def test_such_a_difference_is_found_as_often_as_promised():
    generator, items, discordant = np.random.default_rng(0), 4000, 0.05
    gap = detectable(planned_error({"t": items}, {"t": 1.0}, discordant=discordant)["t"])
    shares = [(discordant + gap) / 2, (discordant - gap) / 2]
    found = 0
    for only, other in generator.multinomial(items, [*shares, 1 - discordant], size=600)[:, :2]:
        first = np.arange(only + other) < only
        found += mcnemar(first, ~first) < 0.05
    # The exact test is a little conservative.
    assert 0.74 <= found / 600 <= 0.84


def read(folder: str, model: str) -> tuple[dict[str, int], dict[str, float]]:
    """Items of the test split, and fine-tuned accuracies, of a suite's tasks."""
    files = sorted(Path(CONF / "task" / folder).glob("[!_]*.yaml"))
    tasks = [yaml.safe_load(path.read_text()) for path in files]
    n = {task["name"]: task["sizes"]["test"] for task in tasks}
    return n, {task["name"]: task["published"][model] / 100 for task in tasks}


@pytest.mark.parametrize(
    ("suite", "model", "error"), [("nli6", "llama3_8b", 0.38), ("vision8", "vit_b_32", 0.15)]
)
def test_planned_errors_of_the_paper_s_benchmarks(suite: str, model: str, error: float):
    assert 100 * planned_error(*read(suite, model))["average"] == pytest.approx(error, abs=0.005)


def test_a_task_needs_items_and_a_reference():
    with pytest.raises(KnotsError, match="task 'b': 5 items, reference None"):
        planned_error({"a": 5, "b": 5}, {"a": 0.5})
    with pytest.raises(KnotsError, match="task 'a': 0 items"):
        planned_error({"a": 0}, {"a": 0.5})
