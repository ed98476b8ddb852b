"""Compare the updates of several tasks: CKA of what they do to activations, ranks, norms, angles, signs.

uv run experiments/analyze.py                                       the miniature
uv run experiments/analyze.py model=mini_llama tokens=last          the language miniature, last tokens
uv run experiments/analyze.py model=vit_b_32 full=vit_b_32_full     figure 2: full fine-tunes, LoRA, KnOTS
uv run experiments/analyze.py full.adapters=outputs/full/{task}     full fine-tunes of your own
uv run experiments/analyze.py items=512 estimator=biased split=validation
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments._cli import entry_point


@entry_point("analyze")
def main(config: dict[str, Any]) -> list[Path]:
    """Look, show, log."""
    from rich.text import Text

    from experiments._logging import log_record
    from experiments._session import session
    from knots.pipelines.analyze import parse_analysis, run_analysis
    from knots.pipelines.analyze.record import record_view

    plan = parse_analysis(config)
    with session() as console:
        run = run_analysis(plan, console)
        console.print(record_view(run))
        console.print(Text(f"Run folder: {run.folder}"), soft_wrap=True)
        if run.fresh:
            log_record(run.folder, run.metrics, config)
    return [run.folder]


if __name__ == "__main__":
    main()
