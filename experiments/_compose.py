"""Composing further configurations within a job, for the runs that it is made of."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

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
        further = [o for o in shlex.split(config["overrides"]) if name == "search" or not _of_a_search(o)]
        composed = loader.load_configuration(name, overrides=[*overrides, *further], run_mode=RunMode.RUN)
        values = plain(composed)
        del values["hydra"]
        return {**values, **{key: config[key] for key in SHARED}, "force": config["force"]}

    return compose


def _of_a_search(override: str) -> bool:
    return override.lstrip("+~").startswith(("search.", "search="))
