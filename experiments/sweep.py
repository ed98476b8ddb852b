"""See and steer a sweep that was submitted to a Slurm cluster.

uv run experiments/merge.py -m hydra/launcher=slurm merge=ties,knots_ties  submits one
uv run experiments/sweep.py status                     done, failed, running, pending or missing
uv run experiments/sweep.py wait                       until none is running or pending
uv run experiments/sweep.py cancel                     take those from the cluster; what is done stays
uv run experiments/sweep.py resubmit                   what failed or is missing, and nothing else
uv run experiments/sweep.py resubmit "launcher={timeout_min: 600}"
uv run experiments/sweep.py status sweep=<its folder>  another than the last one

Exit code 0: all is done, or still under way; 2: a job failed or is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments._cli import entry_point

ACTIONS = ("status", "wait", "cancel", "resubmit")


@entry_point("sweep", positional=("action",), stopped="stopped looking; the jobs go on")
def main(config: dict[str, Any]) -> None:
    """Find the sweep, act, show."""
    from experiments._sweep_view import ENDED_BADLY, summary, sweep_view
    from experiments._sweeps import find_sweep
    from knots.errors import KnotsError, unknown
    from knots.pipelines.values import whole

    action, console = config["action"], Console()
    if action not in ACTIONS:
        raise unknown("action", str(action), ACTIONS)
    lines = whole("lines", config["lines"], least=0)
    sweep = find_sweep(Path(config["paths"]["output_dir"]).expanduser(), config["sweep"])
    say: Callable[[str], None] = lambda text: console.print(text, markup=False, highlight=False)  # noqa: E731
    if action == "cancel":
        say(f"cancelled: {_listed(sweep.cancel())}")
    if action == "resubmit":
        say(f"submitted again: {_listed(sweep.resubmit(config['launcher']))}")
    progress = (
        _ended(sweep, say, every=whole("every", config["every"])) if action == "wait" else sweep.progress()
    )
    console.print(sweep_view(sweep, progress, lines=lines), soft_wrap=not console.is_terminal)
    if action in ("status", "wait") and any(one.state in ENDED_BADLY for one in progress):
        raise KnotsError(f"{summary(progress)}; uv run experiments/sweep.py resubmit runs what is not done")


def _ended(sweep: Any, say: Callable[[str], None], *, every: int) -> Any:
    """How all jobs ended, once they have."""
    from experiments._sweep_view import summary
    from experiments._sweeps import QUEUED

    told, ended = "", False
    while True:
        progress = sweep.progress()
        if told != summary(progress):
            told = summary(progress)
            say(told)
        before, ended = ended, not any(one.state in QUEUED for one in progress)
        # The record of a job that has just ended may take a moment to cross a shared file system.
        if ended and (before or all(one.state != "missing" for one in progress)):
            return progress
        time.sleep(every)


def _listed(numbers: list[int]) -> str:
    return f"jobs {', '.join(map(str, numbers))}" if numbers else "no job"


if __name__ == "__main__":
    main()
