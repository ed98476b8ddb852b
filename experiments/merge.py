"""Merge the adapters of one model and measure the result beside the base and the fine-tuned models.

uv run experiments/merge.py                                    the miniature, with KnOTS-TIES
uv run experiments/merge.py merge=ties merge.scale=0.3         another method, another scale
uv run experiments/merge.py -m merge=ties,knots_ties,core_tsv  several, one after the other
uv run experiments/merge.py model=vit_b_32                     the paper's vision benchmark, from the hub
uv run experiments/merge.py model=llama3_8b                    its language benchmark; mini_llama in miniature
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments._cli import entry_point


@entry_point("merge", stopped="stopped; the same command goes on after the last task that was done")
def main(config: dict[str, Any]) -> list[Path]:
    """Merge, evaluate, show, log."""
    from experiments._logging import log_outcome
    from experiments._session import session, show_outcome
    from knots.pipelines import parse_merge, run_merge

    plan = parse_merge(config)
    with session() as console:
        outcome = run_merge(plan, console)
        show_outcome(outcome, console)
        log_outcome(outcome, config)
    return [outcome.run.folder]


if __name__ == "__main__":
    main()
