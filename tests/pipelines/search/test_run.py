"""A search over the tiny CLIP: its values are those of runs, its work is shared, and a kill costs nothing."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from knots.models import families
from knots.pipelines import run_merge
from knots.pipelines.search import run as module
from knots.pipelines.search.plan import SearchPlan
from knots.pipelines.search.run import finished_search, run_search
from knots.pipelines.workshop import Workshop
from knots.search import Axis
from knots.spaces import SPACES

Searches = Callable[..., SearchPlan]

LINE = {
    "kind": "line",
    "name": "reference",
    "start": {"scale": 0.5, "density": 0.3},
    "goes_on": ">=",
}


def predictions_of(outcome):
    return pd.read_parquet(outcome.run.folder / "predictions.parquet")


def normalized_average(outcome):
    """Recomputed from the predictions of the run and of the fine-tuned adapters."""
    shares = []
    for name in (outcome.run, outcome.baselines["finetuned"]):
        table = pd.read_parquet(name.folder / "predictions.parquet")
        right = (table["prediction"] == table["label"]).astype(float)
        shares.append(right.groupby(table["task"]).mean())
    return 100 * float((shares[0] / shares[1]).mean())


def test_every_trial_has_the_value_of_a_run_with_its_options(search: Searches):
    plan = search()
    found = run_search(plan)
    (entry,) = found.run.metrics["seeds"]
    assert len(entry["trials"]) == found.run.metrics["evaluations"] == 6
    for trial in entry["trials"]:
        outcome = run_merge(plan.candidate(trial["options"], 0))
        assert trial["value"] == pytest.approx(normalized_average(outcome), abs=1e-9)
    assert entry["value"] == max(trial["value"] for trial in entry["trials"])
    assert found.run.metrics["chosen"] == {**entry["chosen"], "seed": 0}


def test_the_best_is_tested_as_the_run_that_a_merge_with_its_options_is(search: Searches):
    plan = search()
    found = run_search(plan)
    chosen = found.run.metrics["seeds"][0]["chosen"]
    plain = replace(plan.merge, scoring=replace(plan.merge.scoring, split="test"))
    same = run_merge(replace(plain, options={**plain.options, **chosen}))
    assert not same.run.fresh
    assert same.run.run_id == found.best.run.run_id == found.run.metrics["test"]["run"]
    assert found.best.run.metrics["split"] == "test"
    assert found.run.metrics["test"]["value"] == pytest.approx(normalized_average(found.best), abs=1e-9)
    assert "search: grid" in found.best.run.metrics["merge"]["source"]


def test_candidates_are_shortened_as_the_run_is(search: Searches):
    plan = search(max_rank=2, axes=(Axis("scale", (0.5, 1.0)),))
    for trial in run_search(plan).run.metrics["seeds"][0]["trials"]:
        outcome = run_merge(plan.candidate(trial["options"], 0))
        assert outcome.run.metrics["merge"]["max_rank_error"] > 0
        assert trial["value"] == pytest.approx(normalized_average(outcome), abs=1e-9)


def test_jointly_the_value_is_hits_pooled_over_all_items(search: Searches):
    plan = search(mode="joint", metric="hits@3", decimals=3)
    found = run_search(plan)
    for trial in found.run.metrics["seeds"][0]["trials"]:
        ranks = predictions_of(run_merge(plan.candidate(trial["options"], 0)))["joint_rank"]
        assert trial["value"] == round(100 * float((ranks <= 3).mean()), 3)


def test_the_alignment_base_heads_and_adapters_are_made_once(
    search: Searches, monkeypatch: pytest.MonkeyPatch
):
    made = []

    def counted(name, function):
        return lambda *args, **options: made.append(name) or function(*args, **options)

    monkeypatch.setitem(SPACES, "knots", counted("align", SPACES["knots"]))
    clip = families.FAMILIES["clip"]
    monkeypatch.setattr(
        "knots.pipelines.workshop.FAMILIES", {"clip": replace(clip, load=counted("base", clip.load))}
    )
    for name in ("load_adapter", "build_heads"):
        original = getattr(__import__("knots.pipelines.workshop", fromlist=[name]), name)
        monkeypatch.setattr(f"knots.pipelines.workshop.{name}", counted(name, original))
    plan = search()
    shop = module.workshop_for(plan.merge)
    # The rehearsal aligns one random module for itself.
    monkeypatch.setattr(module, "rehearse", lambda *_: None)
    monkeypatch.setattr("knots.pipelines.merge.rehearse", lambda *_: None)
    run_search(plan, workshop=shop)
    modules = len(shop.adapters[0].updates)
    tasks = len(plan.merge.suite.tasks)
    assert {name: made.count(name) for name in set(made)} == {
        "align": modules,
        "base": 1,
        "load_adapter": tasks,
        "build_heads": 1,
    }


@pytest.mark.parametrize("procedure", ["grid", "line", "optuna"])
def test_a_killed_search_goes_on_after_its_last_trial_and_ends_with_the_same_numbers(
    search: Searches, procedure: str, monkeypatch: pytest.MonkeyPatch, tmp_path
):
    from knots.search import Range

    own = {
        "grid": {},
        "line": LINE,
        "optuna": {
            "kind": "optuna",
            "name": "optuna",
            "trials": 6,
            "axes": (Range("scale", 0.5, 2.0, 0.5), Range("density", 0.2, 1.0, 0.2)),
        },
    }[procedure]
    plan = search(**own)
    undisturbed = run_search(replace(plan, merge=replace(plan.merge, root=tmp_path / "other" / "merge")))
    scored, score = [], module.score

    def killed(*args):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(1)
        return score(*args)

    monkeypatch.setattr(module, "score", killed)
    with pytest.raises(KeyboardInterrupt):
        run_search(plan)
    root = plan.merge.root.parent / "search"
    assert [path.name for path in root.iterdir()] == [".trials"]
    monkeypatch.setattr(module, "score", lambda *args: scored.append(1) or score(*args))
    resumed = run_search(plan)
    assert resumed.run.metrics == undisturbed.run.metrics
    assert resumed.run.run_id == undisturbed.run.run_id
    assert len(scored) == undisturbed.run.metrics["evaluations"]
    provenance = json.loads((resumed.run.folder / "provenance.json").read_text())
    assert provenance["scored"] == len(scored) - 2


def test_a_finished_search_is_read_and_another_procedure_takes_over_its_trials(
    search: Searches, monkeypatch: pytest.MonkeyPatch
):
    first = run_search(search())
    monkeypatch.setattr(module, "score", lambda *_: pytest.fail("scored again"))
    again = run_search(search())
    assert (again.run.fresh, again.run.metrics) == (False, first.run.metrics)
    assert again.best.run.run_id == first.best.run.run_id
    line = run_search(search(**LINE))
    assert line.run.run_id != first.run.run_id
    assert line.run.metrics["evaluations"] <= 6


def test_force_scores_everything_again(search: Searches):
    plan = search()
    first = run_search(plan)
    again = run_search(replace(plan, merge=replace(plan.merge, force=True)))
    assert again.run.fresh
    assert again.run.metrics == first.run.metrics
    assert json.loads((again.run.folder / "provenance.json").read_text())["scored"] == 6


def test_seeds_of_dare_are_searched_one_by_one_and_stand_side_by_side(search: Searches):
    plan = search(
        drop=0.5,
        density=1.0,
        seeds=(7, 8, 9),
        axes=(Axis("scale", (0.5, 1.0)), Axis("drop", (0.9, 0.5))),
        start={"scale": 0.5, "drop": 1e-5},
        **{key: value for key, value in LINE.items() if key != "start"},
    )
    found = run_search(plan)
    record = found.run.metrics
    assert [entry["seed"] for entry in record["seeds"]] == [7, 8, 9]
    best = max(record["seeds"], key=lambda entry: entry["value"])
    assert record["chosen"]["seed"] == best["seed"]
    assert found.best.run.metrics["seed"] == best["seed"]
    values = {seed: normalized_average(outcome) for seed, outcome in found.tests.items()}
    assert record["test"]["value"] == pytest.approx(values[best["seed"]])
    assert record["test"]["mean"] == pytest.approx(np.mean(list(values.values())))
    assert record["test"]["deviation"] == pytest.approx(np.std(list(values.values()), ddof=1))
    assert record["evaluations"] == sum(entry["evaluations"] for entry in record["seeds"])
    for entry in record["seeds"]:
        assert {trial["seed"] for trial in entry["trials"]} == {entry["seed"]}
        test = found.tests[entry["seed"]].run.metrics
        assert (test["seed"], test["merge"]["drop"]) == (entry["seed"], entry["chosen"]["drop"])


def test_without_a_test_split_nothing_is_tested(search: Searches):
    found = run_search(search(test_split=None))
    assert (found.best, found.tests, found.run.metrics["test"]) == (None, {}, None)


def test_the_record_names_protocol_evaluations_and_edges(search: Searches):
    record = run_search(search()).run.metrics
    assert record["record"] == "search"
    assert "every combination of scale, density" in record["protocol"]
    assert (record["metric"], record["split"], record["searched"]) == (
        "normalized",
        "validation",
        ["scale", "density"],
    )
    ends = {"scale": {0.5: "low", 2.0: "high"}, "density": {0.3: "low", 1.0: "high"}}
    for option, edge in record["edge"].items():
        assert edge == ends[option].get(record["chosen"][option])


def test_only_a_search_whose_tests_are_there_too_counts_as_finished(search: Searches):
    import shutil

    plan = search()
    shop = module.workshop_for(plan.merge)
    assert isinstance(shop, Workshop)
    assert finished_search(plan, shop) is None
    found = run_search(plan, workshop=shop)
    assert finished_search(plan, shop).run.run_id == found.run.run_id
    shutil.rmtree(found.best.run.folder)
    assert finished_search(plan, shop) is None
