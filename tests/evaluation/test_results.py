"""The part of a result that is of some of the tasks."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch

from knots.adapters import Adapter
from knots.errors import KnotsError
from knots.evaluation import Finetuned, ZeroShot
from knots.updates import Dense
from tests.evaluation.conftest import Score
from tests.miniatures import MODULES, WIDTH, tiny_suite


@pytest.mark.parametrize("names", [["patterns"], ["numbers", "digits"], ["patterns", "digits"]])
def test_a_part_is_what_an_evaluation_of_these_tasks_alone_finds(
    names: list[str], score: Score, adapters: Sequence[Adapter]
):
    # One task's model overflows: its items are those without scores.
    huge = Adapter("huge", {module: Dense(torch.full((WIDTH, WIDTH), 1e38)) for module in MODULES})
    some = tiny_suite().subset(names)
    every = score(Finetuned([adapters[0], huge, adapters[2]]), mode="per_task")
    of_these = [[adapters[0], huge, adapters[2]][tiny_suite().task_names.index(name)] for name in names]
    part, alone = every.of(some), score(Finetuned(of_these), mode="per_task", suite=some)
    assert every.unscored == 34
    assert (part.suite, part.tasks, part.unscored) == (alone.suite, alone.tasks, alone.unscored)
    assert part.correct is not None
    assert alone.correct is not None
    np.testing.assert_array_equal(part.n, alone.n)
    np.testing.assert_array_equal(part.correct, alone.correct)
    pd.testing.assert_frame_equal(part.predictions, alone.predictions)
    assert (part.joint, part.kind, part.mode, part.notes) == (None, alone.kind, alone.mode, alone.notes)


def test_what_has_no_part_says_why(score: Score):
    some = tiny_suite().subset(["numbers"])
    with pytest.raises(KnotsError, match=r"over tiny has no part over tiny\[numbers\]: it is of all classes"):
        score(ZeroShot()).of(some)
    numbers = score(ZeroShot(), mode="per_task").of(some)
    with pytest.raises(KnotsError, match=r"over tiny\[numbers\] has no part over tiny: it has no task 'pat"):
        numbers.of(tiny_suite())
