"""What configurations are resolved with: choices that follow from the model, whether W&B has a key."""

from __future__ import annotations

import functools
import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

WANDB_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")
"""Names of W&B's public server; which of them `wandb login` writes down depends on its version."""


def choice_of(group: str, choice: str, model: str) -> str:
    """What stands in for `<group>=auto`: the choice that the model's file names as `default_<group>`.

    Where the user made a choice, `auto` itself stands beside it, which is empty.
    """
    from knots.errors import KnotsError

    if choice != "auto":
        return "auto"
    key = f"default_{group}"
    loader = GlobalHydra.instance().config_loader()
    config = loader.load_configuration(f"model/{model}", overrides=[], run_mode=RunMode.RUN)
    chosen = OmegaConf.select(config, f"model.{key}") or OmegaConf.select(config, key)
    if chosen is None:
        raise KnotsError(f"model {model!r} names no {key}; choose one with {group}=...")
    return str(chosen)


def when(value: str, expected: str, then: Any, otherwise: Any) -> Any:
    """`then` where `value` is `expected`, else `otherwise`."""
    return then if value == expected else otherwise


def wandb_mode() -> str:
    """What WANDB_MODE says; else online where a key for Weights & Biases is configured, offline without."""
    return os.environ.get("WANDB_MODE") or ("online" if has_wandb_key() else "offline")


def has_wandb_key(server: str | None = None) -> bool:
    """Whether a key for W&B's `server` is configured; None is that of WANDB_BASE_URL, else the public one."""
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    host = urlsplit(server or os.environ.get("WANDB_BASE_URL") or "").netloc or WANDB_HOSTS[0]
    return any(_netrc_has(name) for name in (WANDB_HOSTS if host in WANDB_HOSTS else (host,)))


def _netrc_has(host: str) -> bool:
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


for _group in ("suite", "finetune"):
    OmegaConf.register_new_resolver(f"{_group}_of", functools.partial(choice_of, _group), replace=True)
OmegaConf.register_new_resolver("when", when, replace=True)
OmegaConf.register_new_resolver("wandb_mode", wandb_mode, replace=True)
