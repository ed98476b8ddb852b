"""Fine-tune LoRA adapters of the vision tower, one a task, all from the same initial A.

uv run experiments/finetune.py tasks=signs
uv run experiments/finetune.py tasks=all finetune.seed=1 folder=outputs/universe_1
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments._cli import entry_point


@entry_point("finetune")
def main(config: dict[str, Any]) -> None:
    """Train the adapters that are not there yet; print each one's accuracy on the validation split."""
    from knots.finetuning import finetune_tasks, parse_plan
    from knots.models.clip import ClipSpec
    from knots.suites.tasks import parse_suite

    model = config["model"]
    spec = ClipSpec(model["name"], model["base"], model["revision"])
    results = finetune_tasks(
        spec,
        parse_suite(config["suite"]),
        config["tasks"],
        parse_plan(config["finetune"]),
        Path(config["folder"]),
        config["trainer"],
        cache_dir=Path(config["paths"]["cache_dir"]),
        force=config["force"],
    )
    for task, found in results:
        print(f"{task}: {found or 'finished before'}")  # noqa: T201


if __name__ == "__main__":
    main()
