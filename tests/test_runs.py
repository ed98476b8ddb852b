"""Runs are called by what determines them, and found again."""

import json
from pathlib import Path

import pytest

from knots.errors import KnotsError
from knots.runs import all_runs, find_run, run_id
from tests.test_drafts import METRICS, finish


def test_the_run_id_depends_on_content_and_not_on_order_or_number_type():
    first = run_id({"scale": 1, "tasks": ["a", "b"]})
    assert first == run_id({"tasks": ("a", "b"), "scale": 1.0})
    assert first != run_id({"tasks": ["b", "a"], "scale": 1.0})
    assert first != run_id({"tasks": ["a", "b"], "scale": 1.0 + 1e-12})
    assert first != run_id({"tasks": ["a", "b"], "scale": True})
    assert len(first) == 12
    assert int(first, 16) >= 0


def test_raising_the_results_version_renames_every_run(monkeypatch: pytest.MonkeyPatch):
    before = run_id({"scale": 1})
    monkeypatch.setattr("knots.runs.RESULTS_VERSION", 1_000_000)
    assert run_id({"scale": 1}) != before


def test_a_run_folder_without_metrics_is_named(tmp_path: Path):
    (tmp_path / "abc").mkdir()
    with pytest.raises(KnotsError, match="without readable metrics"):
        find_run(tmp_path, "abc")


def test_all_runs_passes_over_what_is_not_a_run(tmp_path: Path):
    finish(tmp_path / "merge", "abc")
    (tmp_path / "merge" / ".x.partial-h-1").mkdir()
    (tmp_path / "merge" / ".x.partial-h-1" / "metrics.json").write_text(json.dumps(METRICS))
    for name, text in (("half", '{"schema": 1'), ("other", "{}"), ("list", "[]")):
        (tmp_path / "merge" / name).mkdir()
        (tmp_path / "merge" / name / "metrics.json").write_text(text)
    (tmp_path / "csv").mkdir()
    assert [run.run_id for run in all_runs(tmp_path)] == ["abc"]
    assert all_runs(tmp_path / "nowhere") == []
