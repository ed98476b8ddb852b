"""Test whether two sets of stored predictions differ: two runs, or files that were made elsewhere.

uv run experiments/compare.py 3f2a9c 81be04                      two runs, by the first digits of their ids
uv run experiments/compare.py 3f2a9c theirs.parquet              a run and a file with the same columns
uv run experiments/compare.py 3f2a9c 81be04 hits=1 output=tables joint hits@1; the table is written, too
uv run experiments/compare.py ours.parquet theirs.parquet reference=finetuned.parquet

A file has the columns task, item, label and prediction (for hits=k also joint_rank), one row an item.
"""

from __future__ import annotations

from typing import Any

from experiments._cli import entry_point


@entry_point("compare", stopped="stopped", positional=("first", "second"))
def main(config: dict[str, Any]) -> None:
    """Match, test, show, write."""
    from rich.console import Console
    from rich.text import Text

    from knots.pipelines.compare import parse_compare, run_compare
    from knots.pipelines.compare.views import compared_sheet
    from knots.reporting.render import text, write_sheet

    plan = parse_compare(config)
    sheet, console = compared_sheet(run_compare(plan)), Console()
    console.print(text(sheet))
    if plan.output is not None:
        console.print(Text(f"Table: {write_sheet(sheet, plan.output)[0]}"), soft_wrap=True)


if __name__ == "__main__":
    main()
