"""Pretrain the miniature bases: the small CLIP and the small Llama that ship with the package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from knots.errors import unknown

FAMILIES = ("clip", "llama")


def pretrain(config: Mapping[str, Any], folder: Path, trainer: Mapping[str, Any]) -> None:
    """Train the base that plain values describe and save it as a folder that transformers loads.

    Args:
        config: `family`, its `shape` and its `plan`; for `clip` also `workers`, the processes that draw.
        folder: where it goes; it appears when it is complete, an older one is replaced.
        trainer: further options of `lightning.Trainer`, such as accelerator, devices, callbacks.

    Raises:
        KnotsError: the family does not exist, or an option is unknown, absent or out of range.
    """
    shape, plan = config["shape"], config["plan"]
    if config["family"] == "clip":
        from knots.pretraining import clip

        clip.pretrain_clip(clip.parse_shape(shape), clip.parse_plan(plan), folder, trainer, config["workers"])
    elif config["family"] == "llama":
        from knots.pretraining import llama

        llama.pretrain_llama(llama.parse_shape(shape), llama.parse_plan(plan), folder, trainer)
    else:
        raise unknown("family of a miniature base", str(config["family"]), FAMILIES)
