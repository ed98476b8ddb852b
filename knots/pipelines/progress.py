"""One progress bar for one evaluation."""

from __future__ import annotations

from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from knots.runs import is_first_process


class EvaluationBar(L.Callback):
    """Shows what is evaluated, on which task it is, and how many batches are done.

    Args:
        label: what is evaluated.
        tasks: the names of the tasks, in the places that batches name.
        console: where to draw; without a terminal only the finished line is written.
    """

    def __init__(self, label: str, tasks: tuple[str, ...], console: Console) -> None:
        self.label, self.tasks = label, tasks
        self.progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("batches"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[now]}", style="dim"),
            console=console,
            disable=not is_first_process(),
        )
        self.bar: TaskID | None = None

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Open the bar."""
        self.progress.start()
        batches = sum(int(count) for count in trainer.num_test_batches)
        self.bar = self.progress.add_task(self.label, total=batches, now="")

    def on_test_batch_start(  # noqa: D102
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        del trainer, pl_module, batch_idx, dataloader_idx
        if self.bar is not None:
            self.progress.update(self.bar, now=self.tasks[batch.task])

    def on_test_batch_end(  # noqa: D102
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        del trainer, pl_module, outputs, batch, batch_idx, dataloader_idx
        if self.bar is not None:
            self.progress.advance(self.bar)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Close the bar and leave its last state."""
        self._stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give the terminal back."""
        del trainer, pl_module, exception
        self._stop()

    def _stop(self) -> None:
        if self.bar is not None:
            self.progress.update(self.bar, now="")
        self.progress.stop()
