"""Fine-tune a model, one task at a time or jointly: LoRA adapters, a vision tower's weights, or a head.

uv run experiments/finetune.py task=signs                          one task of the miniature
uv run experiments/finetune.py tasks=all finetune.seed=1 folder=outputs/universe_1
uv run experiments/finetune.py model=vit_b_32 task=gtsrb           the paper's recipe for ViT-B/32
uv run experiments/finetune.py task=signs finetune=full            every weight of the tower
uv run experiments/finetune.py multitask=true finetune=lora_multitask  one adapter on all tasks jointly
uv run experiments/finetune.py model=llama3_8b task=rte trainer=gpu    the paper's recipe for sentence pairs
uv run experiments/finetune.py model=mini_llama finetune=nli_head_mini a head on the frozen model

A call that was stopped or killed is gone on with by the same command, from its last validation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments._cli import entry_point


@entry_point(
    "finetune",
    aliases={"task": "tasks"},
    stopped="stopped; the same command goes on from the last validation",
)
def main(config: dict[str, Any]) -> None:
    """Train what is not there yet; print each task's accuracy on the validation split."""
    from experiments._logging import TaskLoggers
    from experiments._session import session
    from knots.finetuning import finetune_tasks, parse_plan
    from knots.pipelines.model_plan import parse_model
    from knots.pipelines.values import flag
    from knots.suites.data import DataOptions
    from knots.suites.tasks import parse_suite

    spec = parse_model(config["model"]).spec
    plan, suite = parse_plan(config["finetune"]), parse_suite(config["suite"])
    options = {
        "cache_dir": Path(config["paths"]["cache_dir"]).expanduser(),
        "force": config["force"],
        "options": DataOptions(**config["data"]),
        "multitask": flag("multitask", config["multitask"]),
    }
    folder = Path(config["folder"]).expanduser()
    with session() as console, TaskLoggers(config) as loggers:
        results = finetune_tasks(
            spec, suite, config["tasks"], plan, folder, config["trainer"], loggers=loggers, **options
        )
        for task, found in results:
            loggers.close()
            console.print(f"{task}: {found or 'finished before'}", soft_wrap=True)


if __name__ == "__main__":
    main()
