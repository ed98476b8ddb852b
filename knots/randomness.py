"""Random streams that depend on names alone: not on order, device, or what else is drawn."""

from __future__ import annotations

import hashlib

import torch


def named_generator(seed: int, *names: str) -> torch.Generator:
    """A generator on the CPU, seeded from a stable hash of a seed and of names."""
    digest = hashlib.sha256("\0".join((str(seed), *names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
