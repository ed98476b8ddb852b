"""Reproduce a table or figure of the paper: run what is missing, and print it beside the published numbers.

uv run experiments/reproduce.py                                  Table 1 on the miniature, in minutes
uv run experiments/reproduce.py experiment=table1 trainer=gpu    the paper's own, from the hub
uv run experiments/reproduce.py experiment=table1 run=false      what is there already; nothing is run
uv run experiments/reproduce.py experiment=table1 overrides="batch_size=64 precision=bf16"

A call that was stopped or killed is gone on with by the same command; finished runs and trials are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments._cli import CONF, entry_point

PUBLISHED = CONF.parent / "benchmarks" / "published.csv"


@entry_point("reproduce", stopped="stopped; the same command runs what is missing")
def main(config: dict[str, Any]) -> list[Path]:
    """Run what is missing, show, log."""
    from experiments._compose import composer
    from experiments._logging import log_outcome, log_record
    from experiments._session import session, show_experiment
    from knots.errors import KnotsError
    from knots.pipelines.reproduce import parse_experiment, run_experiment
    from knots.reporting.published import load_published

    plan = parse_experiment(config, composer(config), load_published(PUBLISHED))
    with session() as console:
        done = run_experiment(plan, console)
        show_experiment(done, console)
        for outcome in done.product.outcomes:
            log_outcome(outcome, config)
        if done.run.fresh:
            log_record(done.run.folder, done.run.metrics, config)
    if done.product.failures:
        raise KnotsError(
            f"{', '.join(done.product.failures)} could not be run; the rest is kept: {done.run.folder}"
        )
    return [done.run.folder]


if __name__ == "__main__":
    main()
