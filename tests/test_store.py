"""The frame of all runs: what it holds, what it passes over, and what it calls stale."""

import json
import logging
import shutil
import threading
from pathlib import Path

import pandas as pd
import pytest

from knots import runs, store
from knots.drafts import writing
from knots.errors import KnotsError
from knots.runs import Run, all_runs, find_run, run_id
from knots.store import COLUMNS, frame, is_stale, merge_runs, records
from tests.reporting.conftest import make_metrics

IDENTITY = {"kind": "merged", "normalize_by": "measured"}


def finish(output_dir: Path, metrics: dict, identity: dict = IDENTITY, entry: str = "merge") -> Path:
    name = run_id(identity)
    with writing(output_dir / entry, name, config={"seed": 1}, identity=identity) as draft:
        draft.metrics.update(metrics)
    return output_dir / entry / name


def rewrite(path: Path, **changes: object) -> None:
    values = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in {**values, **changes}.items() if v != "gone"}))


@pytest.fixture
def metrics() -> dict:
    metrics = make_metrics("merged", 60.0, method="knots_ties")
    metrics["merge"] |= {
        "space": "knots",
        "density": 0.2,
        "weights": [1.0, 2.0],
        "max_rank": None,
        "split": 7,
    }
    metrics["joint"] |= {"ci95": {"hits@1": [50.0, 52.5]}, "leakage": [[1.0, 2.0], [3.0, 4.0]]}
    return metrics


def test_a_row_has_facts_options_numbers_and_provenance(tmp_path: Path, metrics: dict):
    folder = finish(tmp_path, metrics)
    table = frame(tmp_path)
    assert list(table.columns[: len(COLUMNS)]) == list(COLUMNS)
    row = table.iloc[0]
    assert (row["run"], row["folder"]) == (folder.name, str(folder))
    assert (row["model"], row["suite"], row["split"], row["mode"]) == (
        "mini_clip",
        "mini_vision8",
        "test",
        "all",
    )
    assert row["tasks"] == tuple(metrics["per_task"])
    assert (row["kind"], row["method"], row["seed"]) == ("merged", "knots_ties", 0)
    assert (row["scale"], row["density"], row["space"], row["weights"]) == (1.0, 0.2, "knots", (1.0, 2.0))
    assert row["merge/split"] == 7
    assert row["normalize_by"] == "measured"
    assert row["results_version"] == runs.RESULTS_VERSION
    assert row["started"] <= row["finished"]
    assert not row["stale"]
    assert row["average/normalized"] == 81.0
    assert row["per_task/digits/accuracy"] == 60.0
    assert (row["per_task/digits/ci95/low"], row["per_task/digits/ci95/high"]) == (58.5, 61.25)
    assert (row["joint/hits@1"], row["joint/ci95/hits@1/high"]) == (51.0, 52.5)
    assert row["joint/macro/hits@3"] == 53.0
    assert not any("leakage" in name for name in table.columns)


def test_every_number_is_a_float_and_absent_ones_are_nan(tmp_path: Path, metrics: dict):
    finish(tmp_path, metrics)
    finish(tmp_path, make_metrics("zero_shot", 40.0, joint=False), {"kind": "zero_shot"})
    table = frame(tmp_path).set_index("method")
    numbers = [name for name in table.columns if name.startswith(("per_task/", "average/", "joint/"))]
    assert {str(table[name].dtype) for name in numbers} == {"float64"}
    assert pd.isna(table.loc["zero_shot", "joint/hits@1"])
    assert pd.isna(table.loc["zero_shot", "average/normalized"])
    assert table.loc["zero_shot", "average/accuracy"] == 43.5


def test_no_runs_are_an_empty_frame_with_the_same_columns(tmp_path: Path):
    assert list(frame(tmp_path / "nowhere").columns) == list(COLUMNS)
    assert len(frame(tmp_path)) == 0


def test_older_results_are_left_out_with_one_warning(
    tmp_path: Path, metrics: dict, caplog: pytest.LogCaptureFixture
):
    new, old = (finish(tmp_path, metrics, {"place": place}) for place in range(2))
    rewrite(old / "provenance.json", results_version=runs.RESULTS_VERSION - 1)
    with caplog.at_level(logging.WARNING):
        assert list(frame(tmp_path)["run"]) == [new.name]
    assert len(caplog.records) == 1
    assert f"1 of 2 below {tmp_path}" in caplog.text
    assert f"merge/{old.name}" in caplog.text
    table = frame(tmp_path, stale=True).set_index("run")
    assert (bool(table.loc[old.name, "stale"]), bool(table.loc[new.name, "stale"])) == (True, False)


def test_a_run_of_before_the_version_was_kept_is_told_by_its_name(
    tmp_path: Path, metrics: dict, monkeypatch: pytest.MonkeyPatch
):
    folder = finish(tmp_path, metrics)
    rewrite(folder / "provenance.json", results_version="gone")
    assert not is_stale(Run(folder, metrics))
    monkeypatch.setattr(runs, "RESULTS_VERSION", runs.RESULTS_VERSION + 1)
    assert is_stale(Run(folder, metrics))


def test_an_older_schema_is_stale_and_a_newer_version_is_not(
    tmp_path: Path, metrics: dict, monkeypatch: pytest.MonkeyPatch
):
    folder = finish(tmp_path, metrics)
    monkeypatch.setattr(store, "RESULTS_VERSION", runs.RESULTS_VERSION - 1)
    assert not is_stale(Run(folder, metrics))
    monkeypatch.setattr(store, "SCHEMA", 2)
    assert is_stale(Run(folder, metrics))
    assert is_stale(Run(folder, {**metrics, "schema": "new"}))


def test_records_are_no_runs_and_are_found_by_kind(tmp_path: Path, metrics: dict):
    run = finish(tmp_path, metrics)
    # A record may hold the keys of a run as well.
    found = finish(tmp_path, {**metrics, "record": "search"}, {"search": 1}, entry="search")
    table = finish(tmp_path, {"schema": 1, "record": "experiment"}, {"table": 1}, entry="table1")
    assert [one.folder for one in all_runs(tmp_path)] == [run]
    assert [one.folder for one in records(tmp_path, "search")] == [found]
    assert [one.folder for one in records(tmp_path, "experiment")] == [table]
    assert records(tmp_path, "analysis") == []
    assert len(frame(tmp_path)) == 1


def test_what_is_partial_or_broken_is_passed_over(tmp_path: Path, metrics: dict):
    run = finish(tmp_path, metrics)
    shutil.copytree(run, tmp_path / "merge" / ".x.partial-host-1")
    shutil.copytree(run, tmp_path / "merge" / "half")
    content = (run / "metrics.json").read_text()
    (tmp_path / "merge" / "half" / "metrics.json").write_text(content[: len(content) // 2])
    (tmp_path / "merge" / "empty").mkdir()
    (run / "provenance.json").write_text('{"commit": {"ha')
    (run / "config.yaml").write_text("a: [1")
    table = frame(tmp_path)
    assert list(table["run"]) == [run.name]
    assert table.iloc[0]["commit"] is None or pd.isna(table.iloc[0]["commit"])
    assert merge_runs(tmp_path)[0].config() == {}


def test_the_frame_is_read_while_runs_come_and_go(tmp_path: Path, metrics: dict):
    kept = finish(tmp_path, metrics)
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            shutil.rmtree(finish(tmp_path, metrics, {"other": 1}))

    writer = threading.Thread(target=churn)
    writer.start()
    try:
        sizes = set()
        for _ in range(30):
            table = frame(tmp_path)
            assert kept.name in set(table["run"])
            sizes.add(len(table))
        assert sizes <= {1, 2}
    finally:
        stop.set()
        writer.join()


def test_a_run_reads_its_own_predictions_config_and_provenance(tmp_path: Path, metrics: dict):
    folder = finish(tmp_path, metrics)
    run = find_run(tmp_path / "merge", folder.name)
    assert run.config() == {"seed": 1}
    assert run.provenance()["identity"] == IDENTITY
    with pytest.raises(KnotsError, match=r"no readable predictions.parquet"):
        run.predictions()
    table = pd.DataFrame({"task": ["digits"], "label": [3]})
    table.to_parquet(folder / "predictions.parquet")
    pd.testing.assert_frame_equal(run.predictions(), table)


def test_the_fine_tuned_baseline_of_a_run_has_its_adapters_and_items(tmp_path: Path, metrics: dict):
    shared = {"adapters": [["a", "1"]], "suite": [{"name": "a", "items": 3}], "eval": {"split": "test"}}
    finetuned = {"kind": "finetuned", **shared}
    run = Run(finish(tmp_path, metrics, {**IDENTITY, **shared, "merge": {"scale": 1}}), metrics)
    assert store.finetuned_of(run) is None
    others = [
        {**finetuned, "adapters": [["a", "2"]]},
        {**finetuned, "suite": [{"name": "a", "items": 4}]},
        {**finetuned, "eval": {"split": "validation"}},
        {**finetuned, "kind": "zero_shot"},
    ]
    for identity in others:
        finish(tmp_path, metrics, identity)
    assert store.finetuned_of(run) is None
    folder = finish(tmp_path, metrics, finetuned)
    assert store.finetuned_of(run).folder == folder
