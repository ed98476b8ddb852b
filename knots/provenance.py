"""Where a result comes from: commit, versions, machine. For people and audits, never part of a result."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "knots-merging",
    "torch",
    "transformers",
    "peft",
    "lightning",
    "torchmetrics",
    "numpy",
    "pillow",
    "safetensors",
    "hydra-core",
)


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@cache
def describe_machine() -> dict[str, Any]:
    """Commit, package versions, machine and command line of this process."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "machine": {
            "host": platform.node(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "gpus": _gpus(),
        },
        "command": sys.argv,
    }


def _commit() -> dict[str, Any] | None:
    """Hash and whether files differ from it; None where the package is not in a git checkout of its own."""
    repository = Path(__file__).resolve().parents[1]
    if not (repository / ".git").exists():
        return None
    commit = _git(repository, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"hash": commit, "dirty": _git(repository, "status", "--porcelain") != ""}


def _git(repository: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(repository), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe_device(device: torch.device) -> str:
    """A GPU's name, or the CPU with the threads that torch uses of it."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type.upper()}, {threads} thread{'s' if threads > 1 else ''}"


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
