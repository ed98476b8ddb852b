"""What an evaluation found: counts, and every single prediction.

Shapes: T tasks, K = len(HITS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from knots.adapters import Adapter
from knots.errors import KnotsError
from knots.evaluation.metrics import ITEM_COLUMNS
from knots.evaluation.scores import NO_PREDICTION
from knots.suites.tasks import Suite

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Speed:
    """How fast an evaluation went, and how much of it the processor stood still for want of data.

    Attributes:
        items: scored by all processes; an item counts once, also where several models score it.
        seconds: from the first batch to the last on this process, without merging and embedding classes.
        waiting_seconds: the part of them in which the next batch was not there yet.
        unit: what the items are called.
        tokens: of all items, padding aside; None for pictures.
        device: where they were scored, as torch names it; of several processes, this one's.
    """

    items: int
    seconds: float
    waiting_seconds: float
    unit: str = "images"
    tokens: int | None = None
    device: str | None = None

    @property
    def items_per_second(self) -> float:
        """Items over seconds; 0 where no time passed."""
        return self.items / self.seconds if self.seconds > 0 else 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens over seconds; 0 where no time passed, None for pictures."""
        if self.tokens is None:
            return None
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def waiting_share(self) -> float:
        """The fraction of the time that was spent waiting for data."""
        return self.waiting_seconds / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        tokens = "" if self.tokens_per_second is None else f"{self.tokens_per_second:,.0f} tokens/s, "
        return (
            f"{self.items:,} {self.unit} in {self.seconds:.1f} s "
            f"({self.items_per_second:,.0f} {self.unit}/s, {tokens}"
            f"{100 * self.waiting_share:.0f} % of it waiting for data)"
        )


@dataclass(frozen=True, eq=False)
class JointResult:
    """Counts over the union of all classes.

    Attributes:
        classes: how many joint classes there are.
        hits: [T, K], items whose label ranks within the first k, for k in `HITS`.
        hits_dedup: [T, K], the same where classes of equal name count as one.
        errors: [T], items whose label does not rank first.
        leaks: [T, T], of task i's errors those whose predicted class belongs to task j and not to
            task i; the diagonal holds those whose predicted class is one of task i's own.
    """

    classes: int
    hits: Counts
    hits_dedup: Counts
    errors: Counts
    leaks: Counts


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """The outcome of one evaluation.

    Attributes:
        suite: name of the suite.
        modality: of the suite, "vision" or "language".
        kind: what was evaluated, as a predictor's `kind`.
        mode: per_task, joint or all.
        protocol: float32 or reference.
        split: which split was scored.
        tasks: names of the T tasks.
        n: [T], numbers of items that were scored.
        correct: [T], items that are right among the task's own classes; None in mode joint.
        joint: the counts over the union of all classes; None in mode per_task.
        predictions: one row an item, in item order, with the columns task, item, label, prediction,
            joint_label, joint_prediction, joint_rank; what the mode leaves out is missing, and an
            item without finite scores has the prediction -1 and the rank `UNRANKED`.
        unscored: number of items without finite scores; they count as wrong.
        adapter: the merged adapter where one was evaluated.
        notes: what a reader of the numbers should know.
        speed: how fast it went; None where the result was read back from disk.
        routed: [T, T], items of task i that went through the adapter of task j; None without a router.
    """

    suite: str
    modality: str
    kind: str
    mode: str
    protocol: str
    split: str
    tasks: tuple[str, ...]
    n: Counts
    correct: Counts | None
    joint: JointResult | None
    predictions: pd.DataFrame
    unscored: int
    adapter: Adapter | None
    notes: tuple[str, ...]
    speed: Speed | None = None
    routed: Counts | None = None

    def of(self, suite: Suite) -> EvaluationResult:
        """The part that is of some of the tasks: what an evaluation of these alone would have found.

        Raises:
            KnotsError: a task was not scored, or the classes of all tasks were told apart, which are others
                where tasks are fewer.
        """
        absent = [name for name in suite.task_names if name not in self.tasks]
        if absent or self.joint is not None or self.correct is None:
            why = f"it has no task {absent[0]!r}" if absent else "it is of all classes jointly"
            raise KnotsError(f"the result over {self.suite} has no part over {suite.name}: {why}")
        places = [self.tasks.index(name) for name in suite.task_names]
        part = self.predictions[self.predictions["task"].isin(suite.task_names)].reset_index(drop=True)
        return replace(
            self,
            suite=suite.name,
            tasks=suite.task_names,
            n=self.n[places],
            correct=self.correct[places],
            predictions=part,
            unscored=int((part["prediction"] == NO_PREDICTION).sum()),
            speed=None,
            routed=None,
        )

    @property
    def accuracies(self) -> npt.NDArray[np.float64] | None:
        """[T], the fraction of items that are right; NaN for a task without items, None in mode joint."""
        if self.correct is None:
            return None
        shares = np.full(len(self.n), np.nan)
        np.divide(self.correct, self.n, out=shares, where=self.n > 0)
        return shares


def joint_result(classes: int, counts: Sequence[Tensor]) -> JointResult:
    """What `JointCounts.compute` gave, with the axes that torchmetrics takes off single numbers."""
    hits, dedup, errors, leaks = counts
    tasks = hits.shape[0]
    return JointResult(
        classes,
        hits.numpy(),
        dedup.numpy(),
        errors.reshape(tasks).numpy(),
        leaks.reshape(tasks, tasks).numpy(),
    )


def build_result(
    *,
    suite: Suite,
    kind: str,
    mode: str,
    protocol: str,
    split: str,
    n: Sequence[int],
    correct: Tensor | None,
    joint: JointResult | None,
    rows: Tensor,
    adapter: Adapter | None,
    notes: Sequence[str],
    speed: Speed,
    routed: Counts | None = None,
) -> EvaluationResult:
    """Put counts and the item table [N, len(ITEM_COLUMNS)], both summed over processes, into a result.

    `n` holds the T numbers of items that were there, which may be fewer than the suite promises.
    """
    items = np.array(n, dtype=np.int64)
    predictions = _prediction_table(suite.task_names, items, rows.numpy())
    scored = predictions["prediction" if correct is not None else "joint_prediction"]
    unscored = int((scored == NO_PREDICTION).sum())
    absent = ["prediction"] if correct is None else []
    absent += ["joint_label", "joint_prediction", "joint_rank"] if joint is None else []
    for column in absent:
        predictions[column] = pd.array([pd.NA] * len(predictions), dtype="Int64")
    return EvaluationResult(
        suite=suite.name,
        modality=suite.modality,
        kind=kind,
        mode=mode,
        protocol=protocol,
        split=split,
        tasks=suite.task_names,
        n=items,
        correct=None if correct is None else correct.reshape(len(items)).numpy(),
        joint=joint,
        predictions=predictions,
        unscored=unscored,
        adapter=adapter,
        notes=tuple(notes),
        speed=speed,
        routed=routed,
    )


def _prediction_table(tasks: Sequence[str], n: Counts, rows: Counts) -> pd.DataFrame:
    table = pd.DataFrame({"task": np.repeat(np.array(tasks, dtype=object), n)})
    table["item"] = np.concatenate([np.arange(count, dtype=np.int64) for count in n])
    for position, column in enumerate(ITEM_COLUMNS):
        table[column] = rows[:, position]
    return table.astype(dict.fromkeys(ITEM_COLUMNS, "Int64"))
