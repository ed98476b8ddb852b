"""Show all finished runs side by side.

uv run experiments/report.py                             the runs below outputs/
uv run experiments/report.py sort=joint                  best joint hits@1 first
uv run experiments/report.py paths.output_dir=/my/runs   another place
"""

from __future__ import annotations

from typing import Any

from experiments._cli import entry_point


@entry_point("report")
def main(config: dict[str, Any]) -> None:
    """Read, sort, show."""
    from rich.console import Console

    from knots.reporting.overview import report

    Console().print(report(config["paths"]["output_dir"], sort=config["sort"]))


if __name__ == "__main__":
    main()
