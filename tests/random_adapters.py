"""Adapters with normally distributed factors, for the algebra's tests."""

from collections.abc import Mapping, Sequence

import torch

from knots.adapters import Adapter
from knots.updates import LowRank

SHAPES = {
    "layers.0.q_proj": (12, 10),
    "layers.0.v_proj": (6, 10),
    "layers.1.q_proj": (12, 10),
    "layers.10.q_proj": (9, 9),
}


def random_update(shape: tuple[int, int], rank: int, generator: torch.Generator) -> LowRank:
    return LowRank(
        torch.randn(shape[0], rank, generator=generator), torch.randn(rank, shape[1], generator=generator)
    )


def random_adapters(
    seed: int,
    tasks: int = 3,
    ranks: Sequence[int] = (2, 3, 1),
    shapes: Mapping[str, tuple[int, int]] = SHAPES,
) -> list[Adapter]:
    """Adapters named task_0, task_1, ...; the rank of task t is ranks[t % len(ranks)]."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Adapter(
            f"task_{t}", {m: random_update(s, ranks[t % len(ranks)], generator) for m, s in shapes.items()}
        )
        for t in range(tasks)
    ]


def relative_error(got: Adapter, expected: Adapter) -> float:
    """Relative Frobenius error over the whole model."""
    return relative_distance(
        {m: u.dense() for m, u in got.updates.items()}, {m: u.dense() for m, u in expected.updates.items()}
    )


def relative_distance(got: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """Relative Frobenius error between matrices by name."""
    assert set(got) == set(expected)
    error = sum(float((got[m] - expected[m]).double().square().sum()) for m in expected)
    norm = sum(float(w.double().square().sum()) for w in expected.values())
    return (error / norm) ** 0.5
