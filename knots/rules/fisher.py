"""Fisher merging (arXiv 2111.09832): every entry's average, weighted by how much each task depends on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from knots.errors import KnotsError
from knots.rules.base import Census, Rule, Session, Site, task_weights


@dataclass(frozen=True, eq=False)
class Fisher(Rule):
    """dW = sum_i F_i * dW_i / sum_i F_i, entry by entry, F_i the diagonal Fisher information of task i.

    On updates of one base this is the merge of the fine-tuned weights. It weighs entries of the weights
    themselves, so it works in the space `full` alone. Task weights w_i make it sum_i w_i F_i * dW_i /
    sum_i w_i F_i. A module whose F_i are all zero is averaged.

    Attributes:
        fishers: task -> module -> F_i [O, I], finite and >= 0.
        floor: added to every F_i, as a fraction of the mean of all tasks' F_i over the module (weighted as
            the tasks are). The amount is the same for all tasks, so an entry that no task depends on becomes
            their average instead of 0 / 0, or of a ratio of rounding errors.
    """

    fishers: Mapping[str, Mapping[str, Tensor]]
    floor: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 <= self.floor < math.inf:
            raise KnotsError(f"rule fisher: floor={self.floor}; allowed: 0 or more")

    def begin(self, census: Census) -> Session:
        """Start one merge.

        Raises:
            KnotsError: the space is not `full`.
        """
        if census.space != "full":
            raise KnotsError(f"rule fisher works in space 'full' only, not in {census.space!r}")
        return super().begin(census)

    def merge(self, site: Site, coords: Tensor, census: Census) -> Tensor:
        """[T, O, I] -> [O, I], in float64.

        Raises:
            KnotsError: a task's Fisher information of the module is absent, of another shape than the
                coordinates, negative or not finite; the message names both.
        """
        fishers = [self._read(task, site.module, coords[0]) for task in census.tasks]
        weights = task_weights(census, coords).double()
        level = sum(w * f.mean() for w, f in zip(weights, fishers, strict=True)) / weights.sum()
        merged, total = torch.zeros_like(fishers[0]), torch.zeros_like(fishers[0])
        for weight, fisher, part in zip(weights, fishers, coords, strict=True):
            raised = fisher + self.floor * level
            merged += raised * part  # which holds the task's weight already
            total += weight * raised
        average = coords.double().sum(dim=0) / weights.sum()
        return torch.where(total > 0, merged / total, average).float()

    def _read(self, task: str, module: str, like: Tensor) -> Tensor:
        """F [O, I] of one task and module, in float64 on the device of its coordinates."""
        if module not in self.fishers.get(task, {}):
            raise KnotsError(f"fishers hold nothing for module {module!r} of task {task!r}")
        fisher = self.fishers[task][module].to(like.device, torch.float64)
        where = f"rule fisher: fishers of module {module!r} of task {task!r}"
        if fisher.shape != like.shape:
            raise KnotsError(
                f"{where} have shape {tuple(fisher.shape)}, the update has {tuple(like.shape)}: one number "
                "for every entry of the weight [O, I] is needed"
            )
        if not bool(((fisher >= 0) & (fisher < math.inf)).all()):
            raise KnotsError(f"{where} are negative or not finite")
        return fisher
