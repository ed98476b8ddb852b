"""What is counted while a suite is evaluated, as torchmetrics that add up over processes.

Every state is an integer and is summed over processes; whoever reads them divides afterwards, so
the numbers do not depend on how the items were shared out.

Shapes: T tasks, B items of one task, C joint classes, N items of all tasks, K = len(HITS).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from knots.errors import KnotsError

HITS = (1, 3, 5, 10)
"""The k for which Hits@k is counted."""

ITEM_COLUMNS = ("label", "prediction", "joint_label", "joint_prediction", "joint_rank")
"""What is kept of every item."""


class TaskCounts(Metric):
    """Items and correct predictions of each task, among the task's own classes."""

    full_state_update = False
    total: Tensor
    correct: Tensor

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(tasks, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("correct", torch.zeros(tasks, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, task: int, labels: Tensor, predictions: Tensor) -> None:
        """Count B items of one task: labels and predictions are int64 [B]."""
        self.total[task] += labels.numel()
        self.correct[task] += (labels == predictions).sum()

    def compute(self) -> tuple[Tensor, Tensor]:
        """Numbers of items [T] and of correct predictions [T]."""
        return self.total, self.correct


class JointCounts(Metric):
    """Hits@k and leakage over the union of all classes.

    A top-1 error of task i leaks to task j where the predicted class is one of task j's and not one
    of task i's own. A class that several other tasks share leaks to each of them, so a row of
    `leaks` may add up to more than the errors. The diagonal counts the errors that stay among the
    task's own classes, shared or not. An error without a prediction is in no column.
    """

    full_state_update = False
    hits: Tensor
    hits_dedup: Tensor
    errors: Tensor
    leaks: Tensor
    belongs: Tensor

    def __init__(self, belongs: Tensor) -> None:
        """`belongs`: bool [C, T], whether a joint class is one of a task's."""
        super().__init__()
        tasks = belongs.shape[1]
        self.register_buffer("belongs", belongs, persistent=False)
        self.add_state("hits", torch.zeros(tasks, len(HITS), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("hits_dedup", torch.zeros(tasks, len(HITS), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("errors", torch.zeros(tasks, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("leaks", torch.zeros(tasks, tasks, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, task: int, predictions: Tensor, ranks: Tensor, dedup_ranks: Tensor) -> None:
        """Count B items of one task: joint predictions and the ranks of their labels, int64 [B]."""
        for column, k in enumerate(HITS):
            self.hits[task, column] += (ranks <= k).sum()
            self.hits_dedup[task, column] += (dedup_ranks <= k).sum()
        wrong = ranks > 1
        self.errors[task] += wrong.sum()
        # Rows are blanked rather than left out: their number would have to be read back from the device.
        owners = self.belongs[predictions.clamp(min=0)] & (wrong & (predictions >= 0))[:, None]
        stays = owners[:, task].clone()
        owners &= ~stays[:, None]
        owners[:, task] = stays
        self.leaks[task] += owners.sum(dim=0)

    def compute(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Hits [T, K], hits with equal names as equal [T, K], top-1 errors [T], leaks [T, T]."""
        return self.hits, self.hits_dedup, self.errors, self.leaks


class ItemTable(Metric):
    """Labels, predictions and ranks of every single item, at the item's own place.

    Every process fills the rows of its own items and leaves the others zero, so the sum over
    processes is the table in item order, however the items were shared out.
    """

    full_state_update = False
    rows: Tensor
    seen: Tensor

    def __init__(self, sizes: Sequence[int]) -> None:
        """`sizes`: numbers of items of the T tasks, which add up to N."""
        super().__init__()
        self.starts = [sum(sizes[:position]) for position in range(len(sizes))]
        rows = torch.zeros(sum(sizes), len(ITEM_COLUMNS), dtype=torch.int64)
        self.add_state("rows", rows, dist_reduce_fx="sum")
        self.add_state("seen", torch.zeros(sum(sizes), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, task: int, items: Tensor, columns: Sequence[Tensor]) -> None:
        """Fill in B items of one task: their numbers and the columns of `ITEM_COLUMNS`, int64 [B]."""
        places = items + self.starts[task]
        self.rows[places] = torch.stack(list(columns), dim=1)
        self.seen[places] += 1

    def compute(self) -> Tensor:
        """The table [N, len(ITEM_COLUMNS)].

        Raises:
            KnotsError: an item was not scored, or was scored twice.
        """
        wrong = int((self.seen != 1).sum())
        if wrong:
            raise KnotsError(f"{wrong} of {len(self.seen)} items were not scored exactly once")
        return self.rows
