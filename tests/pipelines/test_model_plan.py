"""Which adapters a model names: of one set, of several, and with initial factors of their own."""

from pathlib import Path

import pytest
import yaml

from knots.errors import KnotsError
from knots.pipelines.model_plan import parse_model

CONF = Path(__file__).resolve().parents[2] / "conf"
SEVERAL = {
    "name": "tiny",
    "family": "clip",
    "base": "base",
    "revision": None,
    "adapters": "sets/{universe}/{task}",
    "universes": 2,
    "own_init": {"a": [0, 1], "b": [1, 0], "c": [2, 3]},
}


def test_a_universe_takes_the_place_of_its_name():
    assert parse_model(SEVERAL).adapter_of("a") == "sets/0/a"
    assert parse_model(SEVERAL, universe=1).adapter_of("c") == "sets/1/c"
    assert parse_model(SEVERAL, "mine/{universe}/{task}", universe=7).adapter_of("a") == "mine/7/a"


def test_adapters_that_share_no_initial_factors_are_of_different_universes():
    plan = parse_model(SEVERAL, universe=1, shared_init=False)
    assert not plan.shared_init
    assert [plan.adapter_of(task) for task in "abc"] == ["sets/1/a", "sets/0/b", "sets/3/c"]
    with pytest.raises(KnotsError, match="task with shared_init=false: 'd'"):
        plan.adapter_of("d")


@pytest.mark.parametrize(
    ("changes", "asked", "message"),
    [
        ({}, {"universe": 2}, "universe=2; model 'tiny' has universes 0 to 1"),
        ({}, {"universe": -1}, "universe"),
        ({"adapters": "one/{task}"}, {"universe": 0}, "universe=0: adapters='one/{task}' is one set"),
        ({"adapters": "one/{task}"}, {"shared_init": False}, "shared_init=false: adapters='one/{task}'"),
        ({"own_init": {}}, {"shared_init": False}, "model.own_init of 'tiny' names no adapters"),
    ],
)
def test_universes_that_are_not_there_are_refused(changes: dict, asked: dict, message: str):
    with pytest.raises(KnotsError, match=message):
        parse_model({**SEVERAL, **changes}, **asked)


def test_one_set_needs_no_universe():
    plan = parse_model({**SEVERAL, "adapters": "one/{task}"})
    assert (plan.universe, plan.shared_init, plan.adapter_of("a")) == (None, True, "one/a")


def test_no_two_tasks_of_the_miniature_share_initial_factors_where_they_must_not():
    values = yaml.safe_load((CONF / "model" / "mini_clip.yaml").read_text())
    sets = values["own_init"]
    assert all(len(row) == values["universes"] for row in sets.values())
    for universe in range(values["universes"]):
        used = [row[universe] for row in sets.values()]
        assert len(set(used)) == len(used)
    # Each adapter of the shared sets is used once: both arms are of the same adapters there.
    for row in list(sets.values())[:5]:
        assert sorted(row) == list(range(values["universes"]))
