"""Reading predictions: the documented columns, and what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from knots.errors import KnotsError
from knots.pipelines.compare import read_predictions


def table(**changes) -> pd.DataFrame:
    rows = {"task": ["a", "a", "b"], "item": [0, 1, 0], "label": [3, 4, 0], "prediction": [3, -1, 0]}
    return pd.DataFrame({**rows, **changes})


def written(folder: Path, rows: pd.DataFrame) -> str:
    rows.to_parquet(folder / "theirs.parquet")
    return str(folder / "theirs.parquet")


@pytest.mark.parametrize("rows", [
    table(),
    table(item=[0.0, 1.0, 0.0]),
    table(label=pd.array([3, 4, 0], dtype="Int64")),
    table(prediction=np.array([3, -1, 0], dtype=np.int8)),
    table(remark=["x", None, "y"]),
    table(task=pd.Categorical(["a", "a", "b"])),
    table(joint_rank=pd.array([None] * 3, dtype="Int64")),
], ids=["plain", "floats", "nullable", "small", "further column", "categories", "not joint"])  # fmt: skip
def test_a_file_of_the_documented_columns_is_read(tmp_path: Path, rows: pd.DataFrame):
    found = read_predictions(written(tmp_path, rows), tmp_path)
    assert found.run is None
    assert found.table["task"].tolist() == ["a", "a", "b"]
    assert found.table[["item", "label", "prediction"]].to_numpy(dtype=int).tolist() == [
        [0, 3, 3],
        [1, 4, -1],
        [0, 0, 0],
    ]
    assert "remark" not in found.table


@pytest.mark.parametrize(("rows", "words"), [
    (table().drop(columns="item"), r"no column 'item'; it has task, label, prediction, and needs task, item"),
    (table()[:0], "has no rows"),
    (table(prediction=[3, None, 0]), r"column 'prediction': 1 of 3 rows are empty \(task a\)"),
    (table(prediction=[3, float("nan"), 0]), "column 'prediction': 1 of 3 rows are empty"),
    (table(task=["a", None, "b"]), "column 'task': 1 of 3 rows are empty"),
    (table(label=[3, 4, 0.5]), "column 'label': 0.5 is no whole number"),
    (table(label=[3, 4, float("inf")]), "column 'label': inf is no whole number"),
    (table(prediction=["3", "cat", "0"]), "column 'prediction': 'cat' is no whole number"),
    (table(item=[0, 0, 0]), "task 'a': item 0 is there twice"),
    (table(joint_rank=[1, None, 1]), "column 'joint_rank': 1 of 3 rows are empty"),
])  # fmt: skip
def test_another_one_is_refused(tmp_path: Path, rows: pd.DataFrame, words: str):
    with pytest.raises(KnotsError, match=words) as error:
        read_predictions(written(tmp_path, rows), tmp_path)
    assert "theirs.parquet" in str(error.value)


def test_joint_hits_need_ranks_and_nothing_else(tmp_path: Path):
    ranks = ("joint_rank",)
    with pytest.raises(KnotsError, match="no column 'joint_rank'"):
        read_predictions(written(tmp_path, table()), tmp_path, ranks)
    only = table(prediction=pd.array([None] * 3, dtype="Int64"), joint_rank=[1, 2, 3])
    assert len(read_predictions(written(tmp_path, only), tmp_path, ranks).table) == 3
    with pytest.raises(KnotsError, match="column 'prediction': 3 of 3 rows are empty"):
        read_predictions(written(tmp_path, only), tmp_path)


def test_no_parquet_file(tmp_path: Path):
    (tmp_path / "theirs.csv").write_text("task,item\n")
    with pytest.raises(KnotsError, match=r"theirs\.csv is no readable Parquet file"):
        read_predictions(str(tmp_path / "theirs.csv"), tmp_path)


@pytest.mark.parametrize(("place", "words"), [
    ("3f2", "no file, no run folder and no run id"),
    ("missing.parquet", "no file, no run folder and no run id"),
    ("3f2a", "no run below .* begins with '3f2a'; paths.output_dir"),
])  # fmt: skip
def test_what_is_not_there(tmp_path: Path, place: str, words: str):
    with pytest.raises(KnotsError, match=words):
        read_predictions(place, tmp_path / "outputs")


def test_a_folder_that_is_no_run_s(tmp_path: Path):
    with pytest.raises(KnotsError, match="is no folder of a finished run"):
        read_predictions(str(tmp_path), tmp_path)
