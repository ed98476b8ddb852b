"""Figures 3 and 4 in miniature, from the command line, against the predictions that their runs store."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from experiments import reproduce
from tests.experiments.conftest import TASKS, Finished

ROOT = Path(__file__).resolve().parents[2]
FOUR = ("digits", "textures", "signs", "land_cover")
LABELS = ("TIES", "KnOTS-TIES")

Shares = Mapping[str, float]
"""Task -> fraction of items that are right."""


class Figure(NamedTuple):
    """What `reproduce.py` printed and kept."""

    out: str
    folder: Path
    runs: Path

    def table(self, name: str) -> dict[tuple[str, str], dict[str, str]]:
        """(row, column) -> a line of one of its CSV files."""
        with (self.folder / "tables" / f"{name}.csv").open(newline="") as file:
            return {(line["row"], line["column"]): line for line in csv.DictReader(file)}

    def shares(self, run: str) -> Shares:
        """Accuracies of a run, counted from its predictions."""
        table = pd.read_parquet(self.runs / run / "predictions.parquet")
        right = (table["label"] == table["prediction"]).astype(float)
        return right.groupby(table["task"]).mean().to_dict()

    def finetuned(self) -> list[Shares]:
        """Those of every run of the fine-tuned adapters on the test split."""
        found = []
        for path in self.runs.glob("[!.]*/metrics.json"):
            metrics = json.loads(path.read_text())
            if metrics["merge"]["kind"] == "finetuned" and metrics["split"] == "test":
                found.append(self.shares(path.parent.name))
        return found

    def check_record(self, name: str) -> None:
        """The record names every run, and what it calls itself is a miniature."""
        record = json.loads((self.folder / "metrics.json").read_text())
        assert (record["record"], record["experiment"]) == ("experiment", name)
        assert "in miniature" in record["title"]
        for figure in record["figures"]:
            assert (self.folder / figure["file"]).stat().st_size > 5_000
            assert (self.folder / figure["file"]).with_suffix(".pdf").is_file()
        assert all((self.runs / run / "metrics.json").is_file() for run in record["runs"])


def fewer(tasks: Sequence[str]) -> str:
    """Fewer items, to save time."""
    sizes = {"test": 800, "validation": 200}
    more = [f"suite.tasks.{task}.sizes.{split}={n}" for task in tasks for split, n in sizes.items()]
    return f"overrides={' '.join(more)}"


def normalized(ours: Shares, reference: Shares) -> float:
    """The mean over tasks of our accuracy over the reference's, in percent."""
    return 100 * sum(ours[task] / reference[task] for task in ours) / len(ours)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Figure]:
    """Types the command, twice: the second time nothing is left to do and the same is printed."""

    def command(name: str, *overrides: str) -> Figure:
        script = str(ROOT / "experiments" / "reproduce.py")
        given = [f"experiment={name}", "logger=none", "trainer=cpu", f"paths.output_dir={tmp_path}/outputs"]
        options = {"cwd": tmp_path, "env": {**os.environ, "COLUMNS": "160"}, "capture_output": True}
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, script, *given, *overrides], check=False, text=True, **options
            )
            assert done.returncode == 0, done.stderr
        assert "evaluating on" not in done.stdout
        (folder,) = (tmp_path / "outputs" / name).iterdir()
        return Figure(done.stdout, folder, tmp_path / "outputs" / "merge")

    return command


@pytest.mark.slow
def test_figure_3_in_miniature(run):
    figure = run("mini_figure3", fewer(TASKS))
    figure.check_record("mini_figure3")
    (finetuned,) = figure.finetuned()
    each, means = figure.table("mini_figure3_subsets"), figure.table("mini_figure3")
    for label in LABELS:
        by_count: dict[int, list[float]] = {}
        for (row, column), line in each.items():
            if column != label:
                continue
            shares = figure.shares(line["run"])
            assert set(row.partition(": ")[2].split(", ")) == set(shares)
            value = normalized(shares, finetuned)
            assert float(line["ours"]) == pytest.approx(value)
            by_count.setdefault(len(shares), []).append(value)
        assert {count: len(values) for count, values in by_count.items()} == {
            **dict.fromkeys(range(2, 8), 4),
            8: 1,
        }
        for count, values in by_count.items():
            line = means[label, f"{count} tasks"]
            mean = sum(values) / len(values)
            assert float(line["ours"]) == pytest.approx(mean)
            assert f"{mean:.1f}" in figure.out
            if count < 8:
                assert min(values) <= float(line["low"]) <= mean <= float(line["high"]) <= max(values)
            else:
                assert line["low"] == line["high"] == ""
    assert "descriptive" in figure.out


@pytest.mark.slow
def test_figure_4_in_miniature(run, tmp_path):
    figure = run("mini_figure4", fewer(FOUR))
    figure.check_record("mini_figure4")
    table = figure.table("mini_figure4")
    for rank in (1, 2, 4, 8, 16):
        column = f"rank {rank}"
        finetuned = figure.shares(table["Fine-tuned", column]["run"])
        mean = 100 * sum(finetuned.values()) / len(finetuned)
        assert float(table["Fine-tuned", column]["ours"]) == pytest.approx(mean)
        assert f"{mean:.1f}" in figure.out
        for label in LABELS:
            line = table[label, column]
            value = normalized(figure.shares(line["run"]), finetuned)
            assert float(line["ours"]) == pytest.approx(value)
            assert float(line["low"]) < value < float(line["high"])
            assert f"{value:.1f}" in figure.out
            config = tmp_path / "outputs" / "merge" / line["run"] / "config.yaml"
            assert f"mini_clip_rank_{rank}/{{task}}" in config.read_text()
        for task in finetuned:
            made = tmp_path / "outputs" / "finetune" / f"mini_clip_rank_{rank}" / task / "adapter_config.json"
            assert json.loads(made.read_text())["r"] == rank
    assert "trained by this project" in figure.out


def test_subsets_are_the_runs_of_merge_py(
    command: Callable[..., Finished],
    small: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    tasks = ("digits", "letters", "signs")
    # `adapters` has a pattern: it is quoted for Hydra, and the quotes for the shell's rules of `overrides`.
    own = [f'adapters=\\"{o.partition("=")[2]}\\"' if o.startswith("adapters=") else o for o in small]
    groups = ("paths.", "logger=", "trainer=")
    overrides = " ".join([f"tasks=[{','.join(tasks)}]", *(o for o in own if not o.startswith(groups))])
    arguments = [
        *("experiment=mini_figure3", "experiment.settings=published", "experiment.rows=[ties]"),
        *(override for override in small if override.startswith(groups)),
        f"overrides='{overrides}'",
    ]
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        reproduce.main()
    shown = capsys.readouterr()
    assert (stop.value.code, shown.err) == (0, "")
    assert "2 tasks" in shown.out
    runs = tmp_path / "outputs" / "merge"
    made = {path.name for path in runs.iterdir()}
    assert len(made) == 2 + 4
    wanted = {}
    for path in runs.glob("*/metrics.json"):
        metrics = json.loads(path.read_text())
        wanted[metrics["merge"]["kind"], *metrics["per_task"]] = metrics
    for names in [*combinations(tasks, 2), tasks]:
        alone = [o.replace("/outputs", "/alone") if o.startswith("paths.output") else o for o in small]
        done = command("merge", [*alone, "merge=ties", "eval=per_task", f"tasks=[{','.join(names)}]"])
        assert done.code == 0
        for path in (tmp_path / "alone" / "merge").glob("*/metrics.json"):
            metrics = json.loads(path.read_text())
            if metrics["merge"]["kind"] == "merged" and tuple(metrics["per_task"]) == names:
                assert path.parent.name in made
                assert metrics == wanted["merged", *names]
                break
        else:
            pytest.fail(f"no run over {names}")
