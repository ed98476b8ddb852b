"""The counters on hand-made predictions; whole evaluations are recounted in `test_run.py`."""

import pytest
import torch

from knots.errors import KnotsError
from knots.evaluation.metrics import ItemTable, JointCounts, TaskCounts
from knots.suites.tasks import JointLabels
from tests.miniatures import tiny_suite


@pytest.fixture
def labels() -> JointLabels:
    """Joint classes 0 to 2 belong to tasks 0 and 2, classes 3 to 6 to task 1."""
    return tiny_suite().joint()


def test_task_counts_add_up_over_batches():
    counts = TaskCounts(2)
    counts.update(0, torch.tensor([1, 2, 3]), torch.tensor([1, 2, 0]))
    counts.update(0, torch.tensor([1]), torch.tensor([-1]))
    counts.update(1, torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64))
    total, correct = counts.compute()
    assert (total.tolist(), correct.tolist()) == ([4, 0], [2, 0])
    assert total.dtype == correct.dtype == torch.int64


def test_leaks_go_to_every_other_task_that_has_the_class(labels: JointLabels):
    counts = JointCounts(labels.belongs)
    # Task 1: right; wrong within the task; as class 0, which tasks 0 and 2 share; and no prediction.
    ranks = torch.tensor([1, 2, 6, 8])
    counts.update(1, torch.tensor([3, 4, 0, -1]), ranks, ranks)
    # Task 0: as a class that it shares with task 2, which is no leak; and as one of task 1's.
    counts.update(0, torch.tensor([1, 5]), torch.tensor([2, 4]), torch.tensor([1, 3]))
    hits, dedup, errors, leaks = counts.compute()
    assert errors.tolist() == [2, 3, 0]
    assert leaks.tolist() == [[1, 1, 0], [1, 1, 1], [0, 0, 0]]
    assert hits.tolist() == [[0, 1, 2, 2], [1, 2, 2, 4], [0, 0, 0, 0]]
    assert dedup.tolist() == [[1, 2, 2, 2], [1, 2, 2, 4], [0, 0, 0, 0]]


def test_item_table_is_in_item_order_and_refuses_gaps():
    table = ItemTable([2, 3])
    columns = [torch.tensor([7, 8])] * 5
    table.update(1, torch.tensor([2, 0]), columns)
    table.update(0, torch.tensor([1, 0]), columns)
    with pytest.raises(KnotsError, match="1 of 5 items were not scored exactly once"):
        table.compute()
    table.update(1, torch.tensor([1]), [torch.tensor([9])] * 5)
    assert table.compute()[:, 0].tolist() == [8, 7, 8, 9, 7]
