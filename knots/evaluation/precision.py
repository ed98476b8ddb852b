"""Arithmetic that is what it says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Float32 that is float32: no autocast of the trainer's, no TF32 in convolutions (cuDNN's default)."""
    cudnn = torch.backends.cudnn
    with (
        torch.autocast(device.type, enabled=False),
        cudnn.flags(
            enabled=cudnn.enabled,
            benchmark=cudnn.benchmark,
            deterministic=cudnn.deterministic,
            allow_tf32=False,
            fp32_precision="ieee",
        ),
    ):
        yield
