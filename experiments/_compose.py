"""Composing further configurations within a job, for the runs that it is made of."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from experiments._arguments import quoted
from experiments._cli import plain

SHARED = ("trainer", "paths", "logger")
"""Groups that the runs take over from the job."""


def composer(config: Mapping[str, Any]) -> Callable[[str, Sequence[str]], dict[str, Any]]:
    """What composes the configurations of a job's runs.

    The job's own devices, folders and logger stand in each, and its `overrides` and `force` win over what the
    experiment asks for.

    Args:
        config: of the job.
    """

    def compose(name: str, overrides: Sequence[str]) -> dict[str, Any]:
        loader = GlobalHydra.instance().config_loader()
        own = [override for override in overrides if name == "search" or _group(override) != "search"]
        further = map(quoted, shlex.split(config["overrides"]))
        asked = [*own, *(override for override in further if _is_for(name, override))]
        composed = loader.load_configuration(name, overrides=asked, run_mode=RunMode.RUN)
        kept = OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])
        return {**plain(kept), **{key: config[key] for key in SHARED}, "force": config["force"]}

    return compose


def _group(override: str) -> str:
    """The group or first key that an override is of."""
    return re.split(r"[.=]", override.lstrip("+~"))[0]


def _is_for(name: str, override: str) -> bool:
    """Whether a job's override is for a configuration: a training takes those of its recipe alone."""
    group = _group(override)
    if "finetune" in (name, group):
        return name == group
    return group != "search" or name == "search"
