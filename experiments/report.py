"""Show all finished runs side by side, and write a page of everything that is finished.

uv run experiments/report.py                             the runs below outputs/; the page: outputs/report/
uv run experiments/report.py sort=joint                  best joint hits@1 first
uv run experiments/report.py format=csv page=false       every option and number; also markdown, latex
uv run experiments/report.py paths.output_dir=/my/runs   another place
"""

from __future__ import annotations

import sys
from typing import Any

from experiments._cli import entry_point


@entry_point("report", stopped="stopped")
def main(config: dict[str, Any]) -> None:
    """Read, sort, show, write."""
    from rich.console import Console
    from rich.text import Text

    from knots.reporting.overview import read_overview, text, written
    from knots.reporting.page import write_page
    from knots.reporting.plan import parse_report

    plan = parse_report(config)
    overview = read_overview(plan.output_dir, sort=plan.sort)
    as_text = plan.format == "text" or overview.empty
    if as_text:
        Console().print(text(overview), soft_wrap=overview.empty)
    else:
        sys.stdout.write(written(overview, plan.format))
    if plan.page and not overview.empty:
        # A table that goes into a file stays alone there.
        console = Console(stderr=not as_text)
        console.print(Text(f"Page: {write_page(overview)[-1]}"), soft_wrap=True)


if __name__ == "__main__":
    main()
