"""What the loggers are given, read back from what they wrote."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import wandb
import yaml
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

import experiments._logging
from experiments._cli import CONF
from experiments._loggers import Entry, numbers
from experiments._logging import TaskLoggers, log_outcome, log_record, sheet_rows
from knots.adapters import load_adapter
from knots.runs import Run
from tests.experiments.conftest import Finished
from tests.offline_runs import OfflineRun, offline_runs

Command = Callable[..., Finished]

CSV = "lightning.pytorch.loggers.CSVLogger"
WANDB = "lightning.pytorch.loggers.WandbLogger"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """W&B writes nothing outside of the test's folder, and asks nobody."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb_home"))


def by_method(output_dir: Path) -> dict[str, OfflineRun]:
    runs = offline_runs(output_dir)
    assert len({run.tags[0] for run in runs}) == len(runs)
    return {run.tags[0]: run for run in runs}


def same_as_the_run_folder(run: OfflineRun, outputs: Path) -> dict[str, Any]:
    """The numbers, the table and the figure are those of `metrics.json`, which is returned."""
    folder = outputs / "merge" / run.config["run_id"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert run.config["merge"] == metrics["merge"]
    own = yaml.safe_load((folder / "config.yaml").read_text())
    assert {key: run.config[key] for key in ("model", "split", "max_rank")} == {
        key: own[key] for key in ("model", "split", "max_rank")
    }
    assert run.name == f"mini_clip-{metrics['merge']['method']}-{folder.name}"
    expected = numbers(metrics)
    assert expected["average/accuracy"] == metrics["average"]["accuracy"]
    assert {key: run.numbers[key] for key in expected} == pytest.approx(expected)
    table = run.table("per_task")
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["task"] for row in rows] == list(metrics["per_task"])
    assert [row["accuracy"] for row in rows] == [task["accuracy"] for task in metrics["per_task"].values()]
    (image,) = run.images("accuracy")
    assert image.read_bytes() == (folder / "figures" / "accuracy.png").read_bytes()
    return metrics


def test_a_merge_its_baselines_and_its_adapter_are_logged_once(
    command: Command, small: list[str], tmp_path: Path
):
    outputs = tmp_path / "outputs"
    arguments = [*small, "logger=wandb", "eval=per_task", "merge=knots_ties", "+experiment.name=mini_table1"]
    done = command("merge", arguments)
    assert (done.code, done.err) == (0, "")
    runs = by_method(outputs)
    assert list(runs) == ["zero_shot", "finetuned", "knots_ties"]
    for run in runs.values():
        assert (run.group, run.job_type) == ("mini_table1", "merge")
        same_as_the_run_folder(run, outputs)
    adapters = [artifact for run in runs.values() for artifact in run.artifacts if artifact.type == "adapter"]
    check_artifact(adapters, runs["knots_ties"], outputs, tmp_path)
    check_sweep_metrics(runs["knots_ties"])
    # Found again, nothing is logged; nor are the baselines of another merge, which is too large to go along.
    assert command("merge", arguments).code == 0
    assert len(offline_runs(outputs)) == 3
    done = command("merge", [*arguments, "merge=ties", "logger.artifacts=0.001"])
    assert "not logged: logger.artifacts is 0.001" in done.out
    *_, last = offline_runs(outputs)
    assert last.tags == ["ties"]
    assert [artifact.type for artifact in last.artifacts] == ["run_table"]


def check_artifact(adapters: list, run: OfflineRun, outputs: Path, tmp_path: Path) -> None:
    """Its files are the merged adapter, and it knows where it comes from."""
    (artifact,) = adapters
    assert artifact.name == run.name
    expected = {"run_id": run.config["run_id"], "method": "knots_ties", "model": "mini_clip", "split": "test"}
    assert artifact.metadata.items() >= expected.items()
    assert artifact.metadata["options"]["scale"] == run.config["merge"]["scale"]
    folder = outputs / "merge" / run.config["run_id"]
    provenance = json.loads((folder / "provenance.json").read_text())
    assert artifact.metadata["commit"] == provenance["commit"]
    for name, path in artifact.files.items():
        target = tmp_path / "downloaded" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    ours, theirs = (load_adapter(str(place)) for place in (folder / "adapter", tmp_path / "downloaded"))
    assert ours.updates.keys() == theirs.updates.keys()
    assert all(torch.equal(u.dense(), theirs.updates[name].dense()) for name, u in ours.updates.items())


def check_sweep_metrics(run: OfflineRun) -> None:
    """What the ready sweeps maximise is logged under that name."""
    names = {yaml.safe_load(p.read_text())["metric"]["name"] for p in (CONF / "wandb_sweep").glob("*.yaml")}
    assert names
    assert names <= run.numbers.keys()


def test_a_logger_that_fails_does_not_lose_the_run(
    command: Command, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def unreachable(**_: object) -> None:
        raise wandb.errors.CommError("the network is down")

    monkeypatch.setattr("wandb.init", unreachable)
    done = command("merge", [*small, "logger=wandb", "eval=per_task", "merge=zero_shot"])
    assert (done.code, done.err) == (0, "")
    assert "could not be logged: the network is down" in " ".join(done.out.split())
    assert len(list((tmp_path / "outputs" / "merge").iterdir())) == 1


SHEET = {
    "name": "accuracies",
    "title": "Accuracy",
    "columns": ["digits", "average"],
    "rows": [
        {"label": "TIES", "cells": [{"ours": 60.0, "published": 58.5}, {"ours": 61.0}], "missing": None},
        {"label": "KnOTS", "cells": [{"published": 63.0}, {}], "missing": "not run"},
    ],
}
TRIALS = [
    {"value": 50.0, "scale": 0.1, "options": {"density": 0.5}, "split": "validation"},
    {"value": 55.0, "scale": 0.2, "options": {"density": 0.5}, "split": "validation"},
    {"value": None, "scale": 0.3, "options": {"density": 0.5}, "split": "validation"},
    {"value": 52.0, "scale": 0.4, "options": {"density": 0.5}, "split": "validation"},
]


def settings(folder: Path, target: str | None, **more: Any) -> dict[str, Any]:
    """A configuration with this logger."""
    logger = {"_target_": target, **({"save_dir": str(folder)} if target else {}), **more}
    return {"model": {"name": "mini_clip"}, "finetune": {"kind": "lora"}, "logger": logger}


def wandb_settings(folder: Path, **more: Any) -> dict[str, Any]:
    own = {"_target_": "wandb.Settings", "silent": True, "console": "off"}
    return settings(folder, WANDB, project="knots", group="default", mode="offline", settings=own, **more)


def record_in(folder: Path) -> dict[str, Any]:
    (folder / "figures").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "figures" / "curve.png")
    (folder / "figures" / "curve.pdf").write_bytes(b"")
    return {
        "schema": 1,
        "record": "experiment",
        "experiment": "mini_table1",
        "title": "Table 1",
        "sheets": [SHEET],
        "figures": [{"file": "figures/curve.png", "caption": "Average against scale."}],
        "runs": ["aaa"],
        "notes": [],
        "spent": {"evaluations": 12, "stopped": False},
    }


def test_a_record_has_its_sheets_figures_numbers_and_curve(tmp_path: Path):
    folder = tmp_path / "mini_table1" / "0123456789ab"
    record = record_in(folder)
    log_record(folder, record, wandb_settings(tmp_path), group="mini_table1", trials=TRIALS)
    (run,) = offline_runs(tmp_path)
    assert (run.name, run.group, run.job_type) == ("mini_table1-0123456789ab", "mini_table1", "reproduce")
    assert run.tags == ["mini_table1"]
    assert run.config["run_id"] == "0123456789ab"
    table = run.table("accuracies")
    assert table["columns"][:4] == ["row", "digits", "digits (published)", "digits (difference)"]
    assert table["data"] == [
        ["TIES", 60, 58.5, 1.5, 61, None, None, None],
        ["KnOTS", None, 63, None, None, None, None, "not run"],
    ]
    assert run.numbers["accuracies/TIES/digits"] == 60
    assert run.numbers["spent/evaluations"] == 12
    assert "spent/stopped" not in run.numbers
    (image,) = run.images("curve")
    assert image.read_bytes() == (folder / "figures" / "curve.png").read_bytes()
    steps = [row for row in run.history if "search/scale" in row]
    assert [row["trainer/global_step"] for row in steps] == [0, 1, 2, 3]
    assert [row.get("search/value") for row in steps] == [50, 55, None, 52]
    assert [row["search/best"] for row in steps] == [50, 55, 55, 55]
    assert [row["search/scale"] for row in steps] == [0.1, 0.2, 0.3, 0.4]
    assert {row["search/density"] for row in steps} == {0.5}


def test_a_search_s_own_trials_are_its_curve(tmp_path: Path):
    seeds = [{"seed": seed, "trials": TRIALS[2 * seed : 2 * seed + 2]} for seed in (0, 1)]
    record = {"schema": 1, "record": "search", "model": "mini_clip", "method": "ties", "figures": []}
    record |= {"seeds": seeds, "value": 55.0}
    log_record(tmp_path / "search" / "aaa", record, wandb_settings(tmp_path))
    (run,) = offline_runs(tmp_path)
    assert (run.name, run.group, run.job_type) == ("search-mini_clip-ties-aaa", "default", "search")
    assert run.tags == ["ties"]
    assert len([row for row in run.history if "search/value" in row]) == 3
    assert run.numbers["value"] == 55


def test_a_csv_logger_gets_a_record_s_numbers_and_curve(tmp_path: Path):
    folder = tmp_path / "mini_table1" / "0123456789ab"
    log_record(folder, record_in(folder), settings(tmp_path, CSV, name="csv"), group="any", trials=TRIALS)
    path = tmp_path / "csv" / "mini_table1-0123456789ab" / "version_0" / "metrics.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["search/best"] for row in rows] == ["50.0", "55.0", "55.0", "55.0", ""]
    assert rows[-1]["accuracies/TIES/average"] == "61.0"


@pytest.mark.parametrize("why", ["none", "second process"])
def test_nothing_is_logged_by_no_logger_or_by_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
):
    if why == "second process":
        monkeypatch.setenv("RANK", "1")
    config = settings(tmp_path, None if why == "none" else CSV)
    log_record(tmp_path / "aaa", {"record": "search"}, config)
    assert list(tmp_path.rglob("*.csv")) == []


def test_under_a_sweep_s_agent_the_run_it_waits_for_is_logged_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def run(method: str, fresh: bool) -> Run:
        merge = {"kind": "merged", "method": method}
        metrics = {"model": "m", "suite": "s", "split": "test", "seed": 0, "merge": merge, "per_task": {}}
        return Run(tmp_path / method, metrics, fresh=fresh)

    logged: list[str] = []
    monkeypatch.setattr(
        experiments._logging, "write_entry", lambda entry, *_: logged.append(entry.config["run_id"])
    )
    found = SimpleNamespace(
        run=run("ties", fresh=False), baselines={"zero_shot": run("zero_shot", fresh=True)}
    )
    log_outcome(found, settings(tmp_path, WANDB))
    assert logged == ["zero_shot"]
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    log_outcome(found, settings(tmp_path, WANDB))
    assert logged == ["zero_shot", "ties"]


def test_a_limit_that_is_none_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "adapter").mkdir()
    entry = Entry("a", "merge", [], {}, adapter=tmp_path / "adapter")
    experiments._loggers.write_entry(entry, wandb_settings(tmp_path, artifacts="lots")["logger"], None)
    assert "logger.artifacts='lots'; true, false or a number of MB" in caplog.text


def test_a_sheet_without_rows_has_none():
    assert sheet_rows({**SHEET, "rows": []}) == []


def test_a_task_has_its_own_curves(tmp_path: Path):
    with TaskLoggers(settings(tmp_path, CSV, name="csv")) as loggers:
        for task in ("signs", "digits"):
            logger = loggers(task)
            assert isinstance(logger, CSVLogger)
            logger.log_metrics({"loss": 1.0}, step=0)
            logger.save()
            loggers.close()
    assert {path.parent.parent.name for path in tmp_path.rglob("metrics.csv")} == {
        "mini_clip-signs",
        "mini_clip-digits",
    }


def test_a_task_is_a_run_of_w_and_b(tmp_path: Path):
    with TaskLoggers(wandb_settings(tmp_path)) as loggers:
        for task in ("signs", "digits"):
            loggers(task).log_metrics({"loss": 1.0}, step=0)
            loggers.close()
    runs = offline_runs(tmp_path)
    assert [run.name for run in runs] == ["mini_clip-signs", "mini_clip-digits"]
    assert {(run.group, run.job_type, *run.tags) for run in runs} == {("default", "finetune", "lora")}
    assert [run.config["task"] for run in runs] == ["signs", "digits"]


def test_without_a_logger_there_is_none(tmp_path: Path):
    with TaskLoggers(settings(tmp_path, None)) as loggers:
        assert loggers("signs") is None


class Broken(CSVLogger):
    """A logger whose disk is full."""

    def log_hyperparams(self, *_: Any) -> None:
        raise OSError("no space left")


def test_training_goes_on_without_a_logger_that_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with TaskLoggers(settings(tmp_path, f"{__name__}.Broken", name="csv")) as loggers:
        assert loggers("signs") is None
    assert "signs is trained without a logger" in caplog.text
