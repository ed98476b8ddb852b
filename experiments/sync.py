"""Upload the runs that W&B logged offline, several at a time.

uv run experiments/sync.py                             the runs below outputs/
uv run experiments/sync.py dry_run=true                only say which they are
uv run experiments/sync.py workers=8 paths.output_dir=/my/runs

A run that was uploaded is not uploaded again. One that fails does not keep the others: it is named at the
end, the exit code is 2, and the same command tries it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments._cli import entry_point


@entry_point("sync", stopped="stopped; the same command uploads the rest")
def main(config: dict[str, Any]) -> None:
    """Find the runs, upload them, say what became of each."""
    from rich.console import Console

    from experiments._syncing import sync_runs
    from knots.pipelines.values import flag, whole

    sync_runs(
        Path(config["paths"]["output_dir"]).expanduser(),
        workers=whole("workers", config["workers"]),
        dry_run=flag("dry_run", config["dry_run"]),
        say=lambda line: Console().print(line, soft_wrap=True, markup=False, highlight=False),
    )


if __name__ == "__main__":
    main()
