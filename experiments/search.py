"""Search a method's scale, density and drop on the validation split, and measure the best on the test split.

uv run experiments/search.py                                  KnOTS-TIES on the miniature, as the paper does
uv run experiments/search.py merge=ties search=grid           every combination
uv run experiments/search.py search=optuna search.trials=60   Bayesian search
uv run experiments/search.py merge=dare_ties eval=joint       five seeds of DARE; by Hits@3 over all classes
uv run experiments/search.py model=vit_b_32 merge=knots_ties  the paper's benchmark, from the hub

A search that was stopped or killed is gone on with by the same command, after its last trial.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments._cli import entry_point


@entry_point("search", stopped="stopped; the same command goes on after the last trial")
def main(config: dict[str, Any]) -> list[Path]:
    """Search, test, show, log."""
    from experiments._logging import log_outcome, log_record
    from experiments._session import session, show_search
    from knots.pipelines.search.plan import parse_search
    from knots.pipelines.search.run import run_search

    plan = parse_search(config)
    with session() as console:
        outcome = run_search(plan, console)
        show_search(outcome, console)
        for test in outcome.tests.values():
            log_outcome(test, config)
        if outcome.run.fresh:
            log_record(outcome.run.folder, outcome.run.metrics, config)
    return [outcome.run.folder]


if __name__ == "__main__":
    main()
