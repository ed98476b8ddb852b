"""What to compare, checked: from the plain values of `conf/compare.yaml` to a frozen object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knots.pipelines.values import text, whole

NO_REFERENCE = "none"
"""Asks for accuracies as they are."""


@dataclass(frozen=True)
class ComparePlan:
    """One comparison.

    Attributes:
        first: run id, run folder or Parquet file.
        second: likewise.
        output_dir: the root of the run folders.
        reference: likewise, of the fine-tuned adapters, which accuracies are divided by; `NO_REFERENCE` for
            nothing, None for the fine-tuned baseline of the two runs where there is one.
        hits: right means within this rank among all tasks' classes; None: the task's own classes.
        output: folder that the table is written to; None writes nothing.
    """

    first: str
    second: str
    output_dir: Path
    reference: str | None = None
    hits: int | None = None
    output: Path | None = None


def parse_compare(config: Mapping[str, Any]) -> ComparePlan:
    """Read the configuration of `experiments/compare.py`.

    Args:
        config: plain values with the keys of `conf/compare.yaml`.

    Raises:
        KnotsError: a value has the wrong type.
    """
    reference, hits, output = config["reference"], config["hits"], config["output"]
    return ComparePlan(
        first=text("first", config["first"]),
        second=text("second", config["second"]),
        output_dir=Path(config["paths"]["output_dir"]).expanduser(),
        reference=None if reference is None else text("reference", reference),
        hits=None if hits is None else whole("hits", hits),
        output=None if output is None else Path(text("output", output)).expanduser(),
    )
