"""Train the miniature base that `model=mini_clip` stands for, from pictures this repository draws.

uv run experiments/pretrain.py folder=outputs/my_base plan.seed=1
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments._cli import entry_point


@entry_point("pretrain")
def main(config: dict[str, Any]) -> None:
    """Train one base and say where it is."""
    from knots.pretraining import parse_plan, parse_shape, pretrain

    folder = Path(config["folder"])
    pretrain(
        parse_shape(config["shape"]), parse_plan(config["plan"]), folder, config["trainer"], config["workers"]
    )
    print(f"the base is in {folder}")  # noqa: T201


if __name__ == "__main__":
    main()
