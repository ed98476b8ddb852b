"""Numbers of tables recomputed from stored predictions: pandas alone, nothing of the package."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd


def kept(root: Path, name: str) -> dict:
    """The record of an experiment, and its folder."""
    (path,) = (root / name).glob("[!.]*/metrics.json")
    return {**json.loads(path.read_text()), "folder": path.parent}


@cache
def run_of(root: Path, run_id: str) -> dict:
    folder = root / "merge" / run_id
    metrics = json.loads((folder / "metrics.json").read_text())
    return {**metrics, "predictions": pd.read_parquet(folder / "predictions.parquet")}


def accuracies(run: dict) -> pd.Series:
    """Task -> percent of its items that are right, in the order of the tasks."""
    table = run["predictions"]
    right = (table["prediction"] == table["label"]).astype(float)
    return 100 * right.groupby(table["task"], sort=False).mean()


def fine_tuned(root: Path, run: dict) -> dict:
    """The run of the fine-tuned adapters on the same items."""
    for path in (root / "merge").glob("[!.]*/metrics.json"):
        other = json.loads(path.read_text())
        same = all(other[key] == run[key] for key in ("model", "suite", "split", "mode", "protocol"))
        same &= other["merge"]["universe"] == run["merge"]["universe"]
        counts = [{t: n["n"] for t, n in found["per_task"].items()} for found in (other, run)]
        if same and counts[0] == counts[1] and other["merge"]["kind"] == "finetuned":
            return run_of(root, path.parent.name)
    raise AssertionError("no run of the fine-tuned adapters")


def recomputed(root: Path, run_id: str, column: str) -> float:
    """What a cell of a table must hold."""
    run = run_of(root, run_id)
    column = column.split(",")[0]  # "average, rank 8" is the average of another run
    if column.startswith("hits@"):
        return 100 * float((run["predictions"]["joint_rank"] <= int(column[5:])).mean())
    found = accuracies(run)
    if run["merge"]["kind"] not in ("zero_shot", "finetuned"):
        found = 100 * found / accuracies(fine_tuned(root, run))
    return float(found.mean() if column == "average" else found[column])


def check_sheet(root: Path, sheet: dict) -> int:
    """Every number of a sheet that comes from one run is recomputed; returns how many there were."""
    checked = 0
    for row in sheet["rows"]:
        for column, cell in zip(sheet["columns"], row["cells"], strict=True):
            if cell["run"] is not None:
                assert abs(cell["ours"] - recomputed(root, cell["run"], column)) < 1e-9, (
                    row["label"],
                    column,
                )
                checked += 1
    return checked


def check_printed(out: str, sheet: dict) -> None:
    """Every number of a sheet stands in what was printed, to its digits."""
    words = out.replace("│", " ").split()
    for row in sheet["rows"]:
        for cell in row["cells"]:
            if cell["text"] is not None:
                assert cell["text"].split()[0] in words, (row["label"], cell["text"])
            elif cell["ours"] is not None:
                sign, digits = ("+" if sheet.get("signed") else ""), sheet["decimals"]
                shown = f"{round(cell['ours'], digits) + 0.0:{sign}.{digits}f}"
                assert any(word.startswith(shown) for word in words), (row["label"], shown)


def check_seeds(root: Path, sheet: dict) -> int:
    """Rows over the seeds of DARE: mean and deviation of the tests of their search; returns how many."""
    searches = [json.loads(p.read_text()) for p in (root / "search").glob("[!.]*/metrics.json")]
    rows = {row["label"]: row for row in sheet["rows"]}
    checked = 0
    for label, row in rows.items():
        if ", mean of" not in label:
            continue
        best = rows[label.split(", mean of")[0]]["cells"][0]["run"]
        (search,) = (s for s in searches if s["test"]["run"] == best)
        deviations = rows[label.replace("mean of", "deviation of")]["cells"]
        for column, mean, deviation in zip(sheet["columns"], row["cells"], deviations, strict=True):
            values = [recomputed(root, run, column) for run in search["test"]["runs"].values()]
            assert abs(mean["ours"] - np.mean(values)) < 1e-9
            assert abs(deviation["ours"] - np.std(values, ddof=1)) < 1e-9
        chosen = max(search["seeds"], key=lambda entry: entry["value"])
        assert search["test"]["runs"][str(chosen["seed"])] == best
        checked += 1
    return checked
