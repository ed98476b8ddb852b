"""From the composed configuration to what is searched, and how it is compared."""

import pytest

from experiments._cli import CONF
from knots.errors import KnotsError
from knots.pipelines.search.plan import parse_search
from knots.search import Axis, Range
from tests.test_conf import composed

TENTHS = tuple(n / 10 for n in range(1, 11))
DROPS = (0.99, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def parsed(*overrides):
    return parse_search(composed(*overrides, entry="search"))


@pytest.mark.parametrize(("overrides", "expected"), [
    ((), ("normalized", None, ">=", {"scale": 0.1, "density": 0.2})),
    (("eval=joint",), ("hits@3", 3, ">", {"scale": 0.6, "density": 0.3})),
    (("model=llama3_8b",), ("normalized", None, ">=", {"scale": 1.0, "density": 0.4})),
    (("merge=dare_ties",), ("normalized", None, ">=", {"scale": 0.1, "drop": 1e-5})),
    (("merge=task_arithmetic", "eval=joint"), ("hits@3", 3, ">", {"scale": 0.6})),
])  # fmt: skip
def test_the_reference_is_the_official_protocol_of_what_is_measured(overrides, expected):
    procedure = parsed(*overrides).procedure
    assert (procedure.metric, procedure.decimals, procedure.goes_on, procedure.start) == expected
    assert procedure.kind == "line"
    grids = {"scale": TENTHS, "density": TENTHS, "drop": DROPS}
    assert procedure.axes == tuple(Axis(name, grids[name]) for name in expected[3])


@pytest.mark.parametrize(("merge", "searched"), [
    ("knots_ties", ("scale", "density")), ("ties", ("scale", "density")), ("task_arithmetic", ("scale",)),
    ("dare_ties", ("scale", "drop")), ("knots_dare_ties", ("scale", "drop")), ("core_tsv", ("scale",)),
    ("dare_task_arithmetic", ("scale", "drop")), ("regmean", ("scale",)),
])  # fmt: skip
def test_a_method_is_searched_along_what_it_takes(merge, searched):
    for search in ("reference", "grid", "optuna"):
        plan = parsed(f"merge={merge}", f"search={search}")
        assert plan.searched == searched
        assert plan.merge.options["density"] == 1.0 or "density" in searched
        assert plan.seeds == ((420, 421, 422, 423, 424) if "drop" in searched else (0,))
        assert (plan.merge.scoring.split, plan.test_split) == ("validation", "test")


def test_optuna_gets_ranges_and_a_seed():
    procedure = parsed("search=optuna", "search.trials=7", "search.seed=3").procedure
    assert procedure.axes == (Range("scale", 0.05, 2.0, 0.05), Range("density", 0.05, 1.0, 0.05))
    assert (procedure.trials, procedure.seed, procedure.metric) == (7, 3, "normalized")


def test_grid_and_optuna_maximize_what_the_mode_measures_or_what_is_asked_for():
    assert parsed("search=grid", "eval=joint").procedure.metric == "hits@3"
    assert parsed("search=optuna", "eval=all").procedure.metric == "normalized"
    assert parsed("search=grid", "eval=all", "search.metric=hits@1").procedure.metric == "hits@1"


def test_seeds_may_be_left_to_the_one_of_the_run():
    assert parsed("merge=dare_ties", "search.seeds=null", "seed=9").seeds == (9,)


def test_the_test_run_is_the_candidate_on_the_other_split_and_says_where_it_comes_from():
    plan = parsed("model=llama3_8b", "merge=ties")
    tested = plan.tested({"scale": 0.3, "density": 0.5}, 4)
    assert (tested.options["scale"], tested.options["density"], tested.seed) == (0.3, 0.5, 4)
    assert (tested.scoring.split, tested.config["split"], tested.config["seed"]) == ("test", "test", 4)
    assert tested.config["merge"]["source"].startswith("search: reference")
    # Other published options do not belong to a run of searched ones.
    assert "also" not in tested.config["merge"]
    assert plan.merge.config["merge"]["also"]


@pytest.mark.parametrize(("overrides", "message"), [
    (("merge=ensemble",), r"merge=ensemble: ensemble merges nothing"),
    (("split=test",), r"split='test'.*never chosen on the test split"),
    (("search.kind=walk",), r"search\.kind.*'walk'.*line"),
    (("+search.trails=4",), r"kind 'line': 'trails'.*protocols"),
    (("search=optuna", "search.trials=0"), r"search\.trials=0; a whole number of 1 or more"),
    (("search=optuna", "search.ranges.scale=[1,0.5,0.1]"), r"search\.ranges\.scale=.*\[from, to, step\]"),
    (("search=grid", "search.values.scale=[]"), r"search\.values\.scale=\[\]"),
    (("search=grid", "search.values.scale=[low]"), r"search\.values\.scale='low'; a number"),
    (("search=grid", "search.order=[density]", "merge=task_arithmetic"), r"none of them; it takes scale"),
    (("search=grid", "search.order=[seed]"), r"search\.order.*'seed'.*density"),
    (("search=grid", "search.metric=hits@3"), r"eval=per_task does not measure it; use eval=all"),
    (("search=grid", "search.metric=f1"), r"search\.metric.*'f1'"),
    (("merge=dare_ties", "search.seeds=[]"), r"search\.seeds=\[\]; null or a list"),
    (("merge=dare_ties", "search.seeds=[-1]"), r"search\.seeds=-1"),
    (("search.protocols.per_task.goes_on='<'",), r"goes_on.*'<'"),
    (("test_split=tests",), r"test_split.*'tests'"),
])  # fmt: skip
def test_a_mistake_is_named(overrides, message):
    with pytest.raises(KnotsError, match=message):
        parsed(*overrides)


def test_every_search_configuration_is_a_plan():
    for path in (CONF / "search").glob("[!_]*.yaml"):
        assert parsed(f"search={path.stem}").procedure.name == path.stem
