"""Stored predictions: of a run of ours, or of a Parquet file that was made elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from knots.errors import KnotsError
from knots.runs import METRICS, PREDICTIONS, Run, all_runs, find_run

REQUIRED = ("task", "item", "label", "prediction")
JOINT = ("joint_label", "joint_prediction", "joint_rank")
RUN_ID = re.compile(r"[0-9a-f]{4,12}")


@dataclass(frozen=True, eq=False)
class Predictions:
    """Whose predictions they are, and the predictions.

    Attributes:
        place: as the user named it; messages do too.
        table: one row an item, with the columns that `read_file` describes.
        run: the run; None of a file.
    """

    place: str
    table: pd.DataFrame
    run: Run | None = None

    @property
    def title(self) -> str:
        """The run's method and id, or the file."""
        return (
            self.place
            if self.run is None
            else f"{self.run.metrics['merge']['method']}, run {self.run.run_id}"
        )


def read_predictions(place: str, output_dir: Path, answers: Sequence[str] = ("prediction",)) -> Predictions:
    """Predictions by the id of their run, its folder, or their file.

    Args:
        place: a run id below `output_dir` or the first four or more digits of one, a run folder, or a
            Parquet file.
        output_dir: the root of the run folders.
        answers: columns that must hold a value in every row.

    Raises:
        KnotsError: there is no such run or file, more than one run begins like this, or the predictions are
            not as `read_file` describes.
    """
    path = Path(place).expanduser()
    if path.is_file():
        return Predictions(place, read_file(path, answers))
    run = _run_of_folder(path) if path.is_dir() else _run_of_id(place, output_dir)
    return Predictions(place, read_file(run.folder / PREDICTIONS, answers), run)


def read_file(path: Path, answers: Sequence[str] = ("prediction",)) -> pd.DataFrame:
    """Predictions in a Parquet file, one row an item, in any order.

    Columns:
        task: name of the task.
        item: which item of the task's split; with the task, what rows are matched by.
        label: number of the item's class among the task's own.
        prediction: number of the predicted class; -1 where there is none, which is wrong.
        joint_label: number of the class among those of all tasks.
        joint_prediction: likewise.
        joint_rank: 1 + number of classes among those of all tasks that score strictly higher than the label.

    The first four are needed, though `prediction` may be empty where only joint hits are compared; the
    others may be absent, and further ones are not looked at. All but `task` hold whole numbers.

    Args:
        path: the file.
        answers: columns that must hold a value in every row, besides task, item and label.

    Raises:
        KnotsError: it cannot be read, or is not like this; the message names the file, and the column or
            the task.
    """
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise KnotsError(f"{path} is no readable Parquet file ({error})") from error
    needed = dict.fromkeys((*REQUIRED, *answers))
    absent = [column for column in needed if column not in table.columns]
    if absent:
        raise KnotsError(
            f"{path} has no column {absent[0]!r}; it has {', '.join(map(str, table.columns)) or 'none'}, and "
            f"needs {', '.join(needed)}"
        )
    if table.empty:
        raise KnotsError(f"{path} has no rows; one an item is needed")
    known = table[[column for column in (*REQUIRED, *JOINT) if column in table.columns]].copy()
    for column in known.columns:
        _check_filled(path, known, column, needed=column in (*REQUIRED[:3], *answers))
        if column != "task":
            known[column] = _whole(path, column, known[column])
    known["task"] = known["task"].astype(str)
    twice = known[known.duplicated(["task", "item"])]
    if len(twice):
        task, item = twice.iloc[0][["task", "item"]]
        raise KnotsError(f"{path}, task {task!r}: item {item} is there twice; one row an item is needed")
    return known


def _check_filled(path: Path, table: pd.DataFrame, column: str, *, needed: bool) -> None:
    """Refuse a column with empty cells, or with no other ones where it is not needed."""
    empty = table[column].isna()
    if empty.any() and (needed or not empty.all()):
        tasks = ", ".join(map(str, table.loc[empty, "task"].unique()[:3]))
        raise KnotsError(
            f"{path}, column {column!r}: {int(empty.sum())} of {len(table)} rows are empty (task {tasks}); "
            "every row needs a value, and -1 stands for no prediction"
        )


def _whole(path: Path, column: str, values: pd.Series[Any]) -> pd.Series[Any]:
    """The column as whole numbers, empty cells aside."""
    numbers = pd.to_numeric(values, errors="coerce").astype("Float64")
    wrong = values.notna() & (numbers.isna() | ~np.isfinite(numbers.fillna(0)) | (numbers.fillna(0) % 1 != 0))
    if wrong.any():
        raise KnotsError(
            f"{path}, column {column!r}: {values[wrong].tolist()[0]!r} is no whole number; "
            "classes and items are numbered"
        )
    return numbers.astype("Int64")


def _run_of_folder(folder: Path) -> Run:
    found = find_run(folder.parent, folder.name) if (folder / METRICS).is_file() else None
    if found is None or "merge" not in found.metrics:
        raise KnotsError(f"{folder} is no folder of a finished run: it holds no {METRICS} of one")
    return found


def _run_of_id(name: str, output_dir: Path) -> Run:
    if not RUN_ID.fullmatch(name):
        raise KnotsError(
            f"{name!r} is no file, no run folder and no run id; an id is the first 4 to 12 of its digits 0-9 "
            "and a-f"
        )
    found = [run for run in all_runs(output_dir) if run.run_id.startswith(name)]
    if not found:
        raise KnotsError(
            f"no run below {output_dir} begins with {name!r}; paths.output_dir=... looks elsewhere"
        )
    if len(found) > 1:
        ids = ", ".join(run.run_id for run in found[:5])
        raise KnotsError(f"{len(found)} runs below {output_dir} begin with {name!r}: {ids}; give more digits")
    return found[0]
