"""The best single adapter, the jointly trained one and the router, as runs beside those of merges."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from knots.errors import KnotsError
from knots.pipelines import MergePlan, run_merge
from knots.pipelines.bench import workshop_for
from knots.pipelines.bounds import candidate
from knots.pipelines.merge import finished_outcome, run_identity
from knots.pipelines.plans import BEST
from tests.miniatures import tiny_adapter, tiny_suite

TASKS = tiny_suite().task_names
SUITE = replace(
    tiny_suite(),
    tasks=tuple(replace(task, sizes={**task.sizes, "validation": 30}) for task in tiny_suite().tasks),
)
Plans = Callable[..., MergePlan]


@pytest.fixture
def asked(plan: Plans) -> Plans:
    """Makes plans of bounds, over a suite with a validation split."""

    def make(kind: str, **changes) -> MergePlan:
        adapter = BEST if kind == "single" else None
        return plan(**{"kind": kind, "suite": SUITE, "adapter": adapter, **changes})

    return make


def runs_of(plan: MergePlan) -> dict[tuple[str, str], dict]:
    """(method, split) -> metrics of every run below the root."""
    found = [json.loads(path.read_text()) for path in plan.root.glob("[!.]*/metrics.json")]
    return {(metrics["merge"]["method"], metrics["split"]): metrics for metrics in found}


def test_one_task_s_adapter_alone(asked: Plans):
    plan = asked("single", adapter="patterns")
    run = run_merge(plan).run
    assert (run.metrics["merge"]["kind"], run.metrics["merge"]["adapter"]) == ("single", "patterns")
    assert run.metrics["merge"]["method"] == "single (patterns)"
    oracle = run_merge(asked("finetuned")).run.predictions()
    ours = run.predictions()
    same = ours.task == "patterns"
    pd.testing.assert_frame_equal(ours[same], oracle[same])
    assert not ours.equals(oracle)
    assert set(runs_of(plan)) == {
        (method, "test") for method in ("single (patterns)", "zero_shot", "finetuned")
    }


@pytest.mark.parametrize(("mode", "value"), [
    ("all", lambda metrics: metrics["average"]["normalized"]),
    ("per_task", lambda metrics: metrics["average"]["normalized"]),
    ("joint", lambda metrics: metrics["joint"]["hits@3"]),
])  # fmt: skip
def test_the_best_is_the_one_that_validation_chooses(asked: Plans, mode: str, value: Callable):
    plan = asked("single", mode=mode)
    run = run_merge(plan).run
    found = runs_of(plan)
    values = {task: value(found[f"single ({task})", "validation"]) for task in TASKS}
    best = max(values, key=values.get)
    assert run.metrics["merge"]["adapter"] == best
    assert run.metrics["merge"]["method"] == "single"
    (note,) = run.metrics["notes"]
    assert f"adapter of {best}, chosen by the " in note
    assert all(f"{task} {number:.1f}" in note for task, number in values.items())
    test = run_merge(asked("single", mode=mode, adapter=best)).run
    assert {**test.metrics, "notes": [], "merge": {}} == {**run.metrics, "notes": [], "merge": {}}
    assert test.run_id != run.run_id


def test_the_choice_is_found_again(asked: Plans):
    first = run_merge(asked("single"))
    before = {path.name: path.stat().st_mtime_ns for path in first.run.folder.parent.iterdir()}
    again = run_merge(asked("single"))
    assert (again.run.fresh, again.run.run_id) == (False, first.run.run_id)
    assert {path.name: path.stat().st_mtime_ns for path in first.run.folder.parent.iterdir()} == before
    forced = run_merge(asked("single", force=True))
    assert (forced.run.fresh, forced.run.metrics) == (True, first.run.metrics)
    assert not any(run_merge(candidate(asked("single"), task)).run.fresh for task in TASKS)


def test_nothing_is_run_to_look_whether_it_is_there(asked: Plans):
    plan = asked("single")
    shop = workshop_for(plan)
    assert finished_outcome(plan, shop) is None
    assert not plan.root.exists()
    done = run_merge(plan)
    seen = finished_outcome(plan, shop)
    assert seen is not None
    assert (seen.run.run_id, list(seen.baselines)) == (done.run.run_id, ["zero_shot", "finetuned"])


def test_a_run_is_named_after_the_adapter_that_it_is_of(asked: Plans):
    plan = asked("single", adapter="patterns")
    shop = workshop_for(plan)
    identities = [run_identity(replace(plan, adapter=task), shop) for task in TASKS]
    assert [one["alone"][0] for one in identities] == list(TASKS)
    assert len({one["alone"][1] for one in identities}) == 3
    assert run_identity(replace(plan, chosen={"patterns": 1.0}), shop) != identities[1]
    with pytest.raises(KnotsError, match=r"merge.adapter=best is not chosen here"):
        run_identity(asked("single"), shop)


def test_the_jointly_trained_adapter_is_the_model_s(asked: Plans, tmp_path: Path):
    plan = asked("multitask")
    named = replace(plan.model, multitask=str(tiny_adapter(tmp_path / "multitask", seed=9)))
    outcome = run_merge(replace(plan, model=named))
    assert outcome.run.metrics["merge"]["method"] == "multitask"
    assert list(outcome.baselines) == ["zero_shot", "finetuned"]
    assert outcome.run.metrics["average"]["normalized"] is not None
    # In the place of a task's adapter it is that one alone.
    tiny_adapter(tmp_path / "set" / "numbers", seed=9)
    for task in TASKS[1:]:
        tiny_adapter(tmp_path / "set" / task, seed=3)
    placed = replace(plan.model, adapters=str(tmp_path / "set" / "{task}"))
    alone = run_merge(asked("single", adapter="numbers", model=placed)).run
    pd.testing.assert_frame_equal(alone.predictions(), outcome.run.predictions())
    # What it is normalized by is a part of the question.
    other = run_merge(replace(plan, model=replace(placed, multitask=named.multitask))).run
    assert other.run_id != outcome.run.run_id
    pd.testing.assert_frame_equal(other.predictions(), outcome.run.predictions())


def test_a_model_without_a_jointly_trained_adapter_says_how_to_make_one(asked: Plans):
    plan = asked("multitask")
    for attempt in (lambda: run_merge(plan), lambda: run_identity(plan, workshop_for(plan))):
        with pytest.raises(KnotsError, match=r"model=tiny multitask=true .*model.multitask=<folder>"):
            attempt()
    assert not plan.root.exists()


def test_an_adapter_that_does_not_fit_shows_before_anything_is_evaluated(asked: Plans, tmp_path: Path):
    plan = asked("multitask")
    with pytest.raises(KnotsError, match="nowhere"):
        run_merge(replace(plan, model=replace(plan.model, multitask=str(tmp_path / "nowhere"))))
    assert not plan.root.exists()


def test_the_router_tells_how_many_images_it_sent_home(asked: Plans):
    outcome = run_merge(asked("router"))
    metrics = outcome.run.metrics
    assert metrics["router"]["own"].keys() == set(TASKS)
    assert metrics["notes"][0].startswith("routed to their own task's adapter: numbers ")
    assert outcome.baselines["finetuned"].metrics["router"] is None
    again = run_merge(asked("router")).run
    assert (again.fresh, again.metrics) == (False, metrics)
    shop, plan = workshop_for(asked("router")), asked("router")
    fewer = tuple(replace(task, sizes={**task.sizes, "validation": 20}) for task in SUITE.tasks)
    other = replace(plan, suite=replace(SUITE, tasks=fewer))
    assert run_identity(plan, shop) != run_identity(other, shop)
