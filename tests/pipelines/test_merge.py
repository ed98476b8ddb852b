"""One question asked of a merge, answered once and kept."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from knots.adapters import load_adapter
from knots.errors import KnotsError
from knots.merging import merge
from knots.models.bases import find_base
from knots.pipelines import MergePlan, run_merge
from knots.pipelines.bench import workshop_for
from knots.pipelines.identity import merge_identity

# Raised inside Lightning by its own use of torch's private trees.

Plans = Callable[..., MergePlan]

COLUMNS = ["task", "item", "label", "prediction", "joint_label", "joint_prediction", "joint_rank"]


def adapters_of(plan: MergePlan) -> list:
    return [load_adapter(plan.model.adapters.replace("{task}", t), name=t) for t in plan.suite.task_names]


def test_a_merge_leaves_a_whole_run_folder_and_its_baselines_as_runs_of_their_own(plan: Plans):
    outcome = run_merge(plan())
    folder = outcome.run.folder
    assert outcome.run.fresh
    assert {path.name for path in folder.iterdir()} == {
        *("adapter", "config.yaml", "figures", "log.txt", "metrics.json", "predictions.parquet"),
        "provenance.json",
    }
    assert {path.name for path in (folder / "figures").iterdir()} == {"accuracy.png", "accuracy.pdf"}
    assert list(outcome.baselines) == ["zero_shot", "finetuned"]
    assert len(list(folder.parent.iterdir())) == 3
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == outcome.run.metrics
    assert (metrics["schema"], metrics["model"], metrics["suite"], metrics["seed"]) == (1, "tiny", "tiny", 0)
    merged = metrics["merge"]
    assert (merged["kind"], merged["method"], merged["space"]) == ("merged", "knots_ties", "knots")
    for task, numbers in metrics["per_task"].items():
        base = outcome.baselines["zero_shot"].metrics["per_task"][task]["accuracy"]
        ceiling = outcome.baselines["finetuned"].metrics["per_task"][task]["accuracy"]
        assert (numbers["zero_shot"], numbers["finetuned"]) == (base, ceiling)
        if ceiling:
            assert numbers["normalized"] == pytest.approx(100 * numbers["accuracy"] / ceiling)
    assert outcome.baselines["zero_shot"].metrics["merge"]["space"] is None


def test_a_run_may_leave_its_adapter_out_and_is_the_same_run(plan: Plans, caplog: pytest.LogCaptureFixture):
    lean = run_merge(plan(keep_adapter=False)).run
    assert not (lean.folder / "adapter").exists()
    with caplog.at_level("INFO"):
        found = run_merge(plan()).run
    assert (found.fresh, found.run_id, found.metrics) == (False, lean.run_id, lean.metrics)
    assert "force=true makes the run again and keeps it" in caplog.text
    assert (run_merge(plan(force=True)).run.folder / "adapter").is_dir()


def test_the_speed_is_logged_and_kept_beside_the_numbers(plan: Plans):
    run = run_merge(plan()).run
    speed = json.loads((run.folder / "provenance.json").read_text())["speed"]
    assert speed["items"] == 68
    assert 0 < speed["waiting_seconds"] < speed["seconds"]
    assert re.search(r"merged: 68 images in .* images/s, \d+ % of it", (run.folder / "log.txt").read_text())
    assert speed["device"] == json.loads((run.folder / "provenance.json").read_text())["device"] == "cpu"
    assert "speed" not in run.metrics


def test_the_stored_predictions_give_the_stored_numbers(plan: Plans):
    run = run_merge(plan()).run
    table = pd.read_parquet(run.folder / "predictions.parquet")
    assert list(table.columns) == COLUMNS
    assert len(table) == run.metrics["joint"]["n"] == 68
    right = (table["prediction"] == table["label"]).groupby(table["task"], observed=True).mean() * 100
    for task, numbers in run.metrics["per_task"].items():
        assert numbers["accuracy"] == pytest.approx(right[task])
    assert run.metrics["joint"]["hits@3"] == pytest.approx(100 * (table["joint_rank"] <= 3).mean())


def test_the_saved_adapter_is_the_merge_that_was_measured(plan: Plans):
    asked = plan()
    saved = load_adapter(run_merge(asked).run.folder / "adapter")
    expected = merge(adapters_of(asked), **asked.options)
    assert saved.updates.keys() == expected.updates.keys()
    for name, update in expected.updates.items():
        torch.testing.assert_close(saved.updates[name].dense(), update.dense(), rtol=1e-5, atol=1e-6)


def test_a_finished_run_is_read_and_force_runs_it_again(plan: Plans):
    first = run_merge(plan())
    again = run_merge(plan())
    assert (again.run.fresh, again.run.folder) == (False, first.run.folder)
    assert again.run.metrics == first.run.metrics
    forced = run_merge(plan(force=True))
    assert forced.run.fresh
    assert forced.run.metrics == first.run.metrics
    assert not any(run.fresh for run in forced.baselines.values())
    assert (forced.run.folder / "predictions.parquet").read_bytes() == (
        again.run.folder / "predictions.parquet"
    ).read_bytes()


def test_baselines_found_on_disk_give_the_same_numbers_as_fresh_ones(plan: Plans):
    fresh = run_merge(plan()).run
    shutil.rmtree(fresh.folder)
    assert run_merge(plan()).run.metrics == fresh.metrics


@pytest.mark.parametrize("mode", ["per_task", "joint"])
def test_modes_leave_out_what_they_do_not_measure(plan: Plans, mode: str):
    for _ in range(2):
        outcome = run_merge(plan(mode=mode))
        shutil.rmtree(outcome.run.folder)
        metrics = outcome.run.metrics
        assert (metrics["joint"]["hits@1"] is None) == (mode == "per_task")
        assert (metrics["average"]["accuracy"] is None) == (mode == "joint")


@pytest.mark.parametrize("kind", ["ensemble", "zero_shot", "finetuned"])
def test_unmerged_predictors_are_runs_too(plan: Plans, kind: str):
    outcome = run_merge(plan(kind=kind))
    assert outcome.run.metrics["merge"]["kind"] == kind
    assert list(outcome.baselines) == (["zero_shot", "finetuned"] if kind == "ensemble" else [])
    assert not (outcome.run.folder / "adapter").exists()


def test_a_baseline_is_the_same_run_as_when_it_is_asked_for_itself(plan: Plans):
    baselines = run_merge(plan(scale=0.5, seed=3)).baselines
    for kind, run in baselines.items():
        asked = run_merge(plan(kind=kind)).run
        assert (asked.fresh, asked.folder) == (False, run.folder)


def test_zero_shot_needs_no_adapters(plan: Plans):
    asked = plan(kind="zero_shot")
    nowhere = replace(asked.model, adapters="/nowhere/{task}")
    assert run_merge(replace(asked, model=nowhere)).run.fresh


def test_max_rank_shortens_what_is_measured_and_saved(plan: Plans):
    run = run_merge(plan(max_rank=1)).run
    saved = load_adapter(run.folder / "adapter")
    assert {update.rank for update in saved.updates.values()} == {1}
    assert 0 < run.metrics["merge"]["max_rank_error"] < 1
    assert run.metrics["merge"]["max_rank"] == 1


def test_a_merge_of_nothing_saves_no_adapter(plan: Plans, caplog: pytest.LogCaptureFixture):
    outcome = run_merge(plan(scale=0.0))
    assert not (outcome.run.folder / "adapter").exists()
    assert "changes nothing" in caplog.text
    base = outcome.baselines["zero_shot"].metrics["average"]["accuracy"]
    assert outcome.run.metrics["average"]["accuracy"] == base


RULE = "def middle(coords):\n    return {}\n"


def test_a_rule_of_the_user_s_own_counts_by_its_content(plan: Plans, tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text(RULE.format("coords.median(dim=0).values"))
    first = run_merge(plan(rule=f"{file}:middle", density=1.0)).run
    assert first.metrics["merge"]["method"] == "knots x mine.py:middle"
    moved = tmp_path / "moved.py"
    shutil.copy(file, moved)
    assert run_merge(plan(rule=f"{moved}:middle", density=1.0)).run.folder == first.folder
    file.write_text(RULE.format("coords.mean(dim=0)"))
    assert run_merge(plan(rule=f"{file}:middle", density=1.0)).run.folder != first.folder


def identity(plan: MergePlan) -> dict:
    shop = workshop_for(plan)
    return merge_identity(plan, shop.base.identity, shop.text, shop.adapters, shop.reading)


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 0.5},
        {"seed": 1},
        {"max_rank": 2},
        {"mode": "joint"},
        {"protocol": "reference"},
        {"normalize_by": "published"},
        {"precision": "bf16"},
        {"trim": "module"},
    ],
)
def test_what_determines_the_result_determines_the_run(plan: Plans, change: dict):
    assert identity(plan(**change)) != identity(plan())


def test_paths_batches_and_devices_do_not(plan: Plans, tmp_path: Path):
    asked = plan()
    moved = tmp_path / "moved"
    shutil.copytree(Path(asked.model.base).parent, moved)
    model = replace(asked.model, base=str(moved / "base"), adapters=str(moved / "adapters" / "{task}"))
    other = plan(batch_size=3, trainer={}, cache_dir=tmp_path, model=model, config={"merge": {}, "a": 1})
    assert identity(other) == identity(asked)


def test_other_weights_are_another_base(plan: Plans, tmp_path: Path):
    base = plan().model.base
    shutil.copytree(base, tmp_path / "base")
    moved = str(tmp_path / "base")
    assert find_base(moved, None).identity == find_base(base, None).identity
    weights = load_file(tmp_path / "base" / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, tmp_path / "base" / "model.safetensors")
    assert find_base(moved, None).identity != find_base(base, None).identity


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"density": 2.0}, r"density=2.0; allowed"),
        ({"rule": "sum", "density": 0.5}, r"density"),
        ({"space": "knot"}, r"unknown space 'knot'; did you mean 'knots'"),
        ({"rule": "tie"}, r"unknown rule 'tie'; did you mean 'ties'"),
        ({"pruning_rank": 0.5}, r"pruning_rank"),
        ({"weights": [1.0]}, r"1 weights for 3 adapters"),
        ({"normalize_by": "published"}, r"names no published fine-tuned accuracy for numbers"),
        ({"trainer": {"accelerator": "abacus"}}, r"trainer="),
        ({"split": "train"}, r"train"),
    ],
)
def test_mistakes_are_found_before_anything_is_evaluated(plan: Plans, change: dict, message: str):
    asked = plan(**change)
    with pytest.raises(KnotsError, match=message):
        run_merge(asked)
    assert not list(asked.root.glob("*")) if asked.root.exists() else True
