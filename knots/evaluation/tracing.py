"""What goes into and comes out of some modules of a tower while images go through it.

Shapes: B images, N tokens of an image, O out features, I in features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def watching(
    tower: nn.Module, modules: Iterable[str], take: Callable[[str, Tensor, Tensor], None]
) -> Iterator[None]:
    """Show the input and the output of some modules to `take(name, input, output)`, at every call of them."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        return lambda _, inputs, output: take(name, inputs[0], output)

    handles = [tower.get_submodule(name).register_forward_hook(hook(name)) for name in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, eq=False)
class Trace:
    """One pass with gradients: inputs [B, ..., I] and outputs [B, ..., O] of modules, call by call."""

    modules: list[str] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def take(self, name: str, x: Tensor, y: Tensor) -> None:
        """Keep one call; what `watching` is given."""
        self.modules.append(name)
        self.inputs.append(x.detach())
        self.outputs.append(y)

    def gradients(self, score: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Every module with its inputs [B, N, I] and the gradients [B, N, O] of a score.

        The tokens of several calls of one module count together, as they do in its weight's gradient.
        """
        calls: dict[str, list[tuple[Tensor, Tensor]]] = {}
        found = torch.autograd.grad(score, self.outputs, retain_graph=True, materialize_grads=True)
        for name, x, g in zip(self.modules, self.inputs, found, strict=True):
            calls.setdefault(name, []).append((_by_image(x, len(x)), _by_image(g, len(x))))
        for name, pairs in calls.items():
            yield name, torch.cat([x for x, _ in pairs], dim=1), torch.cat([g for _, g in pairs], dim=1)


def _by_image(values: Tensor, images: int) -> Tensor:
    """[B, ..., F] -> [B, N, F]."""
    return values.reshape(images, -1, values.shape[-1])
