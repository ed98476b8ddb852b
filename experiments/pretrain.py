"""Train a miniature base, of `model=mini_clip` or `model=mini_llama`, from what this repository makes.

uv run experiments/pretrain.py folder=outputs/my_base plan.seed=1
uv run experiments/pretrain.py pretrain=mini_llama folder=outputs/my_llama
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments._cli import entry_point


@entry_point("pretrain")
def main(config: dict[str, Any]) -> None:
    """Train one base and say where it is."""
    from knots.pretraining import pretrain

    folder = Path(config["folder"])
    pretrain(config, folder, config["trainer"])
    print(f"the base is in {folder}")  # noqa: T201


if __name__ == "__main__":
    main()
