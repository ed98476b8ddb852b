"""What precision costs: the shipped miniature in float32, bf16 and fp16 weights, and by both protocols.

    uv run benchmarks/precision.py                    the test split; about ten minutes of one core
    uv run benchmarks/precision.py split=validation paths.output_dir=outputs/precision

Runs knots_ties with its default options, the base and the fine-tuned adapters as `experiments/merge.py` does,
and holds every setting against the first, float32 weights scored in float32. Further arguments override
`conf/merge.yaml`; with an output folder of your own, what is finished there is not run again. On a machine
without a GPU the reference protocol's half precision is the CPU's float16 autocast, and marked as emulated.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra import compose, initialize_config_dir

# The script's own folder is on the path, not the repository's.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from experiments._cli import CONF, plain
from knots.pipelines import parse_merge, run_merge
from knots.provenance import describe_machine
from knots.runs import Run

RESULTS = Path(__file__).with_name("results") / "precision.json"

SETTINGS = (
    ("32", "float32"),
    ("32", "reference"),
    ("bf16", "float32"),
    ("16", "float32"),
)
"""Precision of the weights, and protocol. Reference: the tasks' own classes under float16 autocast."""


def label(precision: str, protocol: str) -> str:
    """How a setting is called in the table."""
    if protocol == "float32":
        return "float32" if precision == "32" else f"{precision} weights"
    emulated = "" if torch.cuda.is_available() else ", emulated on the CPU"
    return f"float16 autocast{emulated}"


def measure(overrides: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One row for each setting and predictor."""
    exact: dict[str, pd.DataFrame] = {}
    for precision, protocol in SETTINGS:
        chosen = [f"precision={precision}", f"eval.protocol={protocol}", *overrides]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = plain(compose("merge", ["logger=none", *chosen]))
        outcome = run_merge(parse_merge(config))
        for run in (*outcome.baselines.values(), outcome.run):
            method = run.metrics["merge"]["method"]
            table = run.predictions()
            row = describe(run, table, exact.setdefault(method, table))
            yield {"setting": label(precision, protocol), "precision": precision, "protocol": protocol} | row


def describe(run: Run, table: pd.DataFrame, exact: pd.DataFrame) -> dict[str, Any]:
    """Accuracies in percent, and how many of the items fall elsewhere than in `exact`."""
    return {
        "method": run.metrics["merge"]["method"],
        "accuracy": {task: numbers["accuracy"] for task, numbers in run.metrics["per_task"].items()},
        "average": run.metrics["average"]["accuracy"],
        "hits@1": run.metrics["joint"]["hits@1"],
        "items": len(table),
        "changed": int((table["prediction"] != exact["prediction"]).sum()),
        "joint_changed": int((table["joint_prediction"] != exact["joint_prediction"]).sum()),
        "notes": run.metrics["notes"],
        "speed": run.provenance()["speed"],
    }


def differences(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with the change of both averages in points against the first row of the same method."""
    first: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        first.setdefault(row["method"], row)
    keys = ("average", "hits@1")
    return [
        {**row, **{f"{key}_change": row[key] - first[row["method"]][key] for key in keys}} for row in rows
    ]


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    heads = ("average", "change", "changed items", "hits@1", "change", "changed items")
    print(f"{'method':<12}{'setting':<40}" + "".join(f"{head:>15}" for head in heads))
    for row in rows:
        own = f"{row['average']:15.2f}{row['average_change']:+15.2f}{row['changed']:15,}"
        joint = f"{row['hits@1']:15.2f}{row['hits@1_change']:+15.2f}{row['joint_changed']:15,}"
        print(f"{row['method']:<12}{row['setting']:<40}{own}{joint}")
    tasks = list(rows[0]["accuracy"])
    print(f"\n{'method':<12}{'setting':<40}" + "".join(f"{task[:14]:>15}" for task in tasks))
    for row in rows:
        numbers = "".join(f"{row['accuracy'][task]:15.2f}" for task in tasks)
        print(f"{row['method']:<12}{row['setting']:<40}{numbers}")


def main() -> None:
    """Run every setting, print the tables, write the JSON."""
    overrides = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        if not any(override.startswith("paths.output_dir=") for override in overrides):
            overrides = [f"paths.output_dir={scratch}", *overrides]
        rows = differences(list(measure(overrides)))
    show(rows)
    facts = {key: value for key, value in describe_machine().items() if key != "command"}
    machine = {key: value for key, value in facts["machine"].items() if key != "host"}
    machine |= {"cpu": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
    content = {**facts, "machine": machine, "rows": rows}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
