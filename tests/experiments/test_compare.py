"""`experiments/compare.py` from the command line, on files made elsewhere and on runs of ours."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.experiments.conftest import Finished

Command = Callable[..., Finished]


def write(path: Path, share: float, *, seed: int, items: int = 200) -> str:
    """Predictions of two tasks in the documented columns alone, in any order."""
    generator, tables = np.random.default_rng(seed), []
    for task in ("x", "y"):
        labels = np.arange(items) % 5
        wrong = generator.random(items) >= share
        rows = {"task": task, "item": np.arange(items), "label": labels, "prediction": labels + wrong}
        tables.append(pd.DataFrame(rows))
    pd.concat(tables).sample(frac=1, random_state=seed).to_parquet(path)
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return [write(tmp_path / name, share, seed=seed) for seed, (name, share) in enumerate(NAMES.items())]


NAMES = {"ours.parquet": 0.6, "it's, [theirs] 1e5.parquet": 0.85, "finetuned.parquet": 0.95}


def test_two_files_and_a_reference(command: Command, files: list[str], tmp_path: Path):
    first, second, reference = files
    done = command("compare", [first, second, f"output={tmp_path}/tables"])
    assert (done.code, done.err) == (0, "")
    said = " ".join(done.out.split())
    assert "Verdict: B beats A" in said
    assert "accuracy, %" in said
    assert {path.suffix for path in (tmp_path / "tables").iterdir()} == {".txt", ".md", ".tex", ".csv"}
    again = command("compare", [second, first, f"reference={reference}"])
    assert "Verdict: A beats B" in " ".join(again.out.split())
    assert "normalized by" in again.out


def test_keys_may_be_written_out(command: Command, files: list[str]):
    plain = command("compare", [files[0], files[2]])
    for arguments in (
        [f"first={files[0]}", f"second={files[2]}"],
        [f"second={files[2]}", files[0]],
    ):
        assert command("compare", arguments) == plain


@pytest.mark.parametrize(("arguments", "words"), [
    ([], "2 arguments without a key are needed (first, second), got 0: none"),
    (["3f2a"], "2 arguments without a key are needed (first, second), got 1: 3f2a"),
    (["3f2a", "81be", "77aa"], "got 3: 3f2a, 81be, 77aa"),
    (["first=3f2a", "81be", "77aa"], "1 arguments without a key are needed (second), got 2: 81be, 77aa"),
    (["3f2a", "81be", "hit=3"], "'hit'"),
    (["3f2a", "81be", "hits=0"], "hits=0"),
    (["3f2a", "81be"], "begins with '3f2a'"),
    (["1e55", "81be"], "begins with '1e55'"),
    (["theirs.parquet", "81be"], "'theirs.parquet' is no file, no run folder and no run id"),
])  # fmt: skip
def test_a_mistake_is_one_message(command: Command, arguments: list[str], words: str):
    done = command("compare", arguments)
    assert (done.code, done.err.count("error: "), done.out) == (2, 1, "")
    assert words in done.err
    assert "Traceback" not in done.err


def test_help_and_the_configuration_need_no_arguments(command: Command):
    assert "experiments/compare.py 3f2a9c" in command("compare", ["--help"]).out
    assert "first: ???" in command("compare", ["--cfg", "job"]).out


def test_other_entry_points_take_no_such_arguments(command: Command):
    assert command("report", ["3f2a"]).code == 2


def test_two_runs_by_id_folder_and_file(command: Command, small: list[str], tmp_path: Path):
    root = tmp_path / "outputs"
    # The miniature's own base and adapters, and few of its items.
    few = [override for override in small if not override.startswith(("model.base=", "adapters="))]
    tasks = [*few, "tasks=[digits,signs]", "suite.tasks.digits.sizes.test=120"]
    for merge in ("task_arithmetic", "knots_ties"):
        assert command("merge", [f"merge={merge}", "merge.scale=3", *tasks]).code == 0
    metrics = {path: json.loads(path.read_text()) for path in root.glob("merge/*/metrics.json")}
    runs = {found["merge"]["method"]: path.parent for path, found in metrics.items()}
    first, second = runs["task_arithmetic"], runs["knots_ties"]
    output = f"paths.output_dir={root}"
    done = command("compare", [first.name, second.name, output])
    assert (done.code, done.err) == (0, "")
    said = " ".join(done.out.split())
    assert f"A: task_arithmetic, run {first.name}; B: knots_ties, run {second.name}" in said
    assert f"normalized by finetuned, run {runs['finetuned'].name}" in said
    # The average's difference is that of the two runs.
    averages = [metrics[run / "metrics.json"]["average"]["normalized"] for run in (first, second)]
    assert f"{averages[1] - averages[0]:+.2f}" in said
    by_folder = command("compare", [str(first), f"{second.name[:8]}", output])
    assert by_folder.out == done.out
    copy = shutil.copy(second / "predictions.parquet", tmp_path / "copy.parquet")
    with_file = command("compare", [str(first), str(copy), output])
    assert "; accuracy, %" in " ".join(with_file.out.split())
    plain = command("compare", [first.name, second.name, "reference=none", output])
    assert "; accuracy, %" in " ".join(plain.out.split())
    jointly = command("compare", [first.name, second.name, "hits=3", output])
    assert "joint hits@3" in " ".join(jointly.out.split())
    # A base alone has no adapters, but the other run's tell what to divide by.
    base = command("compare", [runs["zero_shot"].name, second.name, output])
    assert f"normalized by finetuned, run {runs['finetuned'].name}" in " ".join(base.out.split())
    again = command("compare", [first.name, first.name[:6], output])
    assert "are the same" in again.err
