"""What to report, checked: from the plain values of a configuration to a frozen object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knots.errors import KnotsError, unknown
from knots.reporting.overview import WRITTEN


@dataclass(frozen=True)
class ReportPlan:
    """One report.

    Attributes:
        output_dir: the root of the run folders.
        sort: what runs are sorted by.
        format: a key of `WRITTEN`.
        page: write the page as well.
    """

    output_dir: Path
    sort: str
    format: str
    page: bool


def parse_report(config: Mapping[str, Any]) -> ReportPlan:
    """Read the configuration of `experiments/report.py`.

    Raises:
        KnotsError: the format is unknown, or `page` is neither true nor false; `read_overview` checks `sort`.
    """
    if config["format"] not in WRITTEN:
        raise unknown("format", str(config["format"]), WRITTEN)
    if not isinstance(config["page"], bool):
        raise KnotsError(f"page={config['page']!r}; true or false is needed")
    folder = Path(config["paths"]["output_dir"]).expanduser()
    return ReportPlan(folder, str(config["sort"]), config["format"], config["page"])
