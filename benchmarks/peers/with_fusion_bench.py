"""FusionBench's algorithms, on models of the touched weights alone; KnOTS from the two helpers it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _peer import Case, Update, Work, main, read_base, read_factors
from fusion_bench import BaseModelPool
from fusion_bench.method.dare import DareTiesMerging
from fusion_bench.method.knots.knots_utils import subspace_alignment
from fusion_bench.method.task_arithmetic import TaskArithmeticAlgorithm
from fusion_bench.method.ties_merging import TiesMergingAlgorithm
from fusion_bench.method.ties_merging.ties_merging_utils import ties_merging
from torch import Tensor, nn

Factors = dict[str, tuple[Tensor, Tensor]]


class Touched(nn.Module):
    """A model that is its touched weights."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.weights = nn.ParameterDict({name.replace(".", "/"): w for name, w in weights.items()})


@dataclass
class Pool:
    """The base's weights, the adapters, and whole models of both, which the algorithms change."""

    base: dict[str, Tensor]
    tasks: dict[str, Factors]
    models: dict[str, Touched]

    def fold(self) -> None:
        """Make the models anew: W of the base, W + B A of every task."""
        self.models.clear()
        self.models["_pretrained_"] = Touched({name: w.clone() for name, w in self.base.items()})
        for task, factors in self.tasks.items():
            self.models[task] = Touched({name: self.base[name] + b @ a for name, (b, a) in factors.items()})


def load(work: Work) -> Pool:
    tasks = {Path(folder).name: read_factors(folder) for folder in work.adapters}
    pool = Pool(read_base(work, next(iter(tasks.values()))), tasks, {})
    pool.fold()
    return pool


def ties(work: Work, **options: Any) -> dict[str, Any]:
    return {"threshold": work.density, "remove_keys": [], "merge_func": "mean", **options}


ALGORITHMS: dict[str, Callable[[Work], Any]] = {
    "task_arithmetic": lambda _: TaskArithmeticAlgorithm(scaling_factor=1.0),
    "ties": lambda work: TiesMergingAlgorithm(scaling_factor=1.0, **ties(work)),
    "dare_ties": lambda work: DareTiesMerging(
        sparsity_ratio=work.drop, only_on_linear_weights=False, rescale=True, scaling_factor=1.0, **ties(work)
    ),
}


def of_models(name: str) -> Case:
    def merge(work: Work, pool: Pool) -> Touched:
        torch.manual_seed(work.seed)
        return ALGORITHMS[name](work).run(BaseModelPool(dict(pool.models)))

    def read(pool: Pool, model: Touched) -> Iterator[tuple[str, Update]]:
        for name, weight in pool.base.items():
            yield name, model.weights[name.replace(".", "/")].detach() - weight

    return Case(load, merge, read, lambda _, pool: pool.fold())


def knots_ties(work: Work, tasks: list[Factors]) -> list[tuple[str, Update]]:
    """Align every module by its helper, trim and merge all coordinates by its TIES, lift back."""
    bases, coordinates = {}, {}
    for module in tasks[0]:
        u, s, parts = subspace_alignment([b @ a for b, a in (task[module] for task in tasks)])
        bases[module] = u
        coordinates[module] = torch.stack([s[:, None] * part for part in parts])
    flat = torch.cat([c.flatten(1) for c in coordinates.values()], dim=1)
    shapes = {module: c.shape[1:] for module, c in coordinates.items()}
    coordinates.clear()
    merged = ties_merging(flat, reset_thresh=work.density, merge_func="mean")
    pieces = merged.split([shape.numel() for shape in shapes.values()])
    return [
        (module, (bases[module], piece.view(shape)))
        for (module, shape), piece in zip(shapes.items(), pieces, strict=True)
    ]


CASES = {
    **{name: of_models(name) for name in ALGORITHMS},
    "knots_ties from its helpers": Case(
        lambda work: [read_factors(folder) for folder in work.adapters],
        knots_ties,
        lambda _, updates: updates,
    ),
}

if __name__ == "__main__":
    with torch.no_grad():
        main(CASES, ["fusion-bench", "transformers"])
