"""DARE (arXiv 2311.03099): drop entries at random, rescale the rest by 1 / (1 - drop).

A transformation of the coordinates before any rule. Masks are drawn on the CPU, so that they depend on no
device, and once a merge: a number drawn takes longer than all the rest that is done with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from knots.randomness import named_generator

Masks = Callable[[str, tuple[int, int]], Tensor]
"""(module, (P, Q)) -> keep masks [T, P, Q] of zeros and ones, float32, on the CPU."""


def task_masks(tasks: Sequence[str], *, drop: float, seed: int) -> Masks:
    """Masks from one generator per (seed, task, module): no order, device or other module matters.

    Args:
        tasks: T task names. Where two tasks share a name the second one counts as another.
        drop: probability of dropping an entry, 0 <= drop < 1.
        seed: any integer.
    """
    keys = [f"{name}#{tasks[:i].count(name)}" if name in tasks[:i] else name for i, name in enumerate(tasks)]

    def draw(module: str, shape: tuple[int, int]) -> Tensor:
        return torch.stack([_bernoulli(shape, drop, named_generator(seed, key, module)) for key in keys])

    return draw


def reference_masks(
    tasks: Sequence[str], shapes: Mapping[str, tuple[int, int]], *, drop: float, seed: int
) -> Masks:
    """The official implementation's masks, which its published seeds need.

    One stream from `seed`: tasks outer, modules in lexicographic order of their parameter names (layer 10
    before layer 2); for each of them a random integer matrix that is thrown away, then the mask. The
    generator's state before every mask is kept (5 KB each), so that masks can be drawn module by module.

    Args:
        tasks: T task names in the order of the reference.
        shapes: module -> (P, Q) of its coordinates, every module of the merge.
        drop: probability of dropping an entry.
        seed: the published seed.
    """
    generator = torch.Generator().manual_seed(seed)
    states: dict[tuple[int, str], Tensor] = {}
    for task in range(len(tasks)):
        for module in sorted(shapes, key=lambda name: f"{name}.weight"):
            torch.randint(2, shapes[module], generator=generator)
            states[task, module] = generator.get_state()
            _bernoulli(shapes[module], drop, generator)

    def draw(module: str, shape: tuple[int, int]) -> Tensor:
        masks, own = [], torch.Generator()  # of this call alone: others may draw at the same time
        for task in range(len(tasks)):
            own.set_state(states[task, module])
            masks.append(_bernoulli(shape, drop, own))
        return torch.stack(masks)

    return draw


def kept(masks: Masks) -> Masks:
    """The same masks, each drawn when it is first asked for and kept as bits: 1/32 of its coordinates' size.

    Several threads may ask at the same time, each for another module.
    """
    held: dict[str, tuple[torch.Size, np.ndarray]] = {}

    def read(module: str, shape: tuple[int, int]) -> Tensor:
        if module not in held:
            drawn = masks(module, shape)
            held[module] = drawn.shape, np.packbits(drawn.bool().numpy())
            return drawn
        size, bits = held[module]
        return torch.from_numpy(np.unpackbits(bits, count=size.numel())).view(size).float()

    return read


def dare(coords: Tensor, mask: Tensor, drop: float) -> Tensor:
    """Coordinates [T, P, Q] under keep masks of the same shape, rescaled by 1 / (1 - drop); a new tensor."""
    return (coords * mask.to(coords.device)).div_(1 - drop)


def _bernoulli(shape: tuple[int, int], drop: float, generator: torch.Generator) -> Tensor:
    # In place with a scalar, as the reference does: torch.bernoulli on a tensor draws another stream.
    return torch.empty(shape).bernoulli_(1 - drop, generator=generator)
