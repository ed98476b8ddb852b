"""All runs of an output folder, sorted and in every format."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from knots.errors import KnotsError
from knots.reporting.overview import read_overview, text
from tests.reporting.conftest import make_metrics


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    low, high = make_metrics("merged", 50.0, method="ties"), make_metrics("merged", 70.0, method="core_ties")
    low["average"]["normalized"], high["average"]["normalized"] = 90.0, 60.0
    for name, metrics in (("aaa", low), ("bbb", high), ("ccc", make_metrics("zero_shot", 40.0, joint=False))):
        folder = tmp_path / "merge" / name
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return tmp_path


def order(outputs: Path, sort: str) -> list[str]:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(text(read_overview(outputs, sort=sort)))
    words = [line.split()[0] for line in captured.get().splitlines() if line.strip()]
    return [word for word in words if word in ("aaa", "bbb", "ccc")]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("normalized", ["aaa", "bbb", "ccc"]),
        ("accuracy", ["bbb", "aaa", "ccc"]),
        ("joint", ["bbb", "aaa", "ccc"]),
        ("method", ["bbb", "aaa", "ccc"]),
    ],
)
def test_runs_are_sorted_and_those_without_the_number_come_last(
    outputs: Path, sort: str, expected: list[str]
):
    assert order(outputs, sort) == expected


def test_no_runs_and_an_unknown_order_are_said(tmp_path: Path):
    assert "no finished runs below" in str(text(read_overview(tmp_path, sort="joint")))
    with pytest.raises(KnotsError, match="unknown sort 'acuracy'; did you mean 'accuracy'"):
        read_overview(tmp_path, sort="acuracy")


def test_of_every_experiment_the_last_result_is_shown(tmp_path: Path):
    made = {"aaa": ("table1", "2026-01-02"), "bbb": ("table1", "2026-01-03"), "ccc": ("table2", "2026-01-01")}
    for name, (experiment, finished) in made.items():
        folder = tmp_path / experiment / name
        folder.mkdir(parents=True)
        record = {"schema": 1, "record": "experiment", "experiment": experiment}
        (folder / "metrics.json").write_text(json.dumps(record))
        (folder / "provenance.json").write_text(json.dumps({"finished": finished, "results_version": 99}))
    shown = read_overview(tmp_path, sort="joint").records["experiment"]
    assert [run.run_id for run in shown] == ["bbb", "ccc"]
