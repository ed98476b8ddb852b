"""The six tasks of `nli6` on a loopback hub: every data set in its real layout, with a few rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.hub import Hub, files_of
from tests.suites.sentences import CLASSES, write_rows

TASKS = ("snli", "mnli", "sick", "qnli", "rte", "scitail")

ROWS = {"train": 12, "validation": 10, "test": 9}
"""Rows of the data sets' own splits."""

SIZES: Mapping[str, Mapping[str, int]] = {
    "snli": {"train": 9, "validation": 8, "test": 7},  # every fourth has no gold label
    "mnli": {"train": 12, "validation": 2, "test": 8},
    "sick": {"train": 12, "validation": 10, "test": 9},
    "qnli": {"train": 12, "validation": 2, "test": 8},
    "rte": {"train": 12, "validation": 5, "test": 5},
    "scitail": {"train": 12, "validation": 10, "test": 9},
}
"""Items of the tasks' splits that are made of them."""

GLUE = ("text1", "text2", "label")
CARD = "---\n{}---\n# A card\n"


def size_overrides() -> list[str]:
    """What the command line must say of data sets that are this small."""
    return [
        f"suite.tasks.{task}.sizes.{split}={n}" for task, sizes in SIZES.items() for split, n in sizes.items()
    ]


def rows_of(task: str, split: str) -> list[dict[str, Any]]:
    """What a task's data set holds in one of its own splits, with the columns that it really has."""
    hidden = task in ("mnli", "qnli", "rte") and split == "test"
    labels: Sequence[Any] = {
        "snli": (0, 1, 2, -1),
        "mnli": (0, 1, 2),
        "sick": (1, 0, 2),
        "qnli": (0, 1),
        "rte": (1, 0),
        "scitail": ("neutral", "entails"),
    }[task]
    first, second, label = {
        "snli": ("premise", "hypothesis", "label"),
        "sick": ("sentence_A", "sentence_B", "label"),
        "scitail": ("premise", "hypothesis", "label"),
    }.get(task, GLUE)
    return [
        {
            first: f"{task} {split} premise {number}",
            second: f"claim {number} of {split}",
            label: -1 if hidden else labels[number % len(labels)],
            **({"idx": number, "label_text": "words"} if first == "text1" else {}),
            **({"relatedness_score": 3.5, "id": str(number)} if task == "sick" else {}),
        }
        for number in range(ROWS[split])
    ]


def serve_nli6(hub: Hub, folder: Path) -> None:
    """The data sets under the ids that the tasks name."""
    classes = {"label": CLASSES}
    for split in ROWS:
        part = f"{split}-00000-of-00001.parquet"
        write_rows(folder / "snli" / "plain_text" / part, rows_of("snli", split), classes)
        for config in ("dgem_format", "predictor_format", "snli_format", "tsv_format"):
            rows = rows_of("scitail", split) if config == "tsv_format" else [{"sentence1": "another form"}]
            write_rows(folder / "scitail" / config / part, rows)
        write_rows(folder / "parquet" / "default" / split / "0000.parquet", rows_of("sick", split), classes)
        for task in ("mnli", "qnli", "rte"):
            matched = "_matched" if task == "mnli" and split != "train" else ""
            write_rows(folder / task / f"{split}{matched}.jsonl", rows_of(task, split))
    _cards(folder)
    hub.datasets |= {
        "stanfordnlp/snli": files_of(folder / "snli"),
        "allenai/scitail": files_of(folder / "scitail"),
        "RobZamp/sick": files_of(folder / "sick"),
        "RobZamp/sick@refs/convert/parquet": files_of(folder / "parquet"),
        **{f"SetFit/{task}": files_of(folder / task) for task in ("mnli", "qnli", "rte")},
    }


def _cards(folder: Path) -> None:
    """READMEs, and the scripts that lie beside some of the data."""
    for task, configs in (
        ("snli", ("plain_text",)),
        ("scitail", ("dgem_format", "predictor_format", "snli_format", "tsv_format")),
    ):
        card = [
            {
                "config_name": config,
                "data_files": [{"split": split, "path": f"{config}/{split}-*"} for split in ROWS],
            }
            for config in configs
        ]
        (folder / task / "README.md").write_text(CARD.format(yaml.safe_dump({"configs": card})))
    for task in ("mnli", "qnli", "rte"):
        (folder / task / "README.md").write_text(f"# Glue {task.upper()}\n")
        (folder / task / "create_dataset.py").write_text("raise RuntimeError\n")
    (folder / "sick").mkdir()
    (folder / "sick" / "README.md").write_text(CARD.format("language: [en]\n"))
    (folder / "sick" / "sick.py").write_text("raise RuntimeError\n")
