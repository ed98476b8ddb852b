"""What an evaluation has counted so far, on disk after every task, for one that is killed and called again.

All states of the metrics are sums of whole numbers (see `knots.evaluation.metrics`), so an evaluation that
goes on from them ends with the same numbers as one that was never stopped.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torchmetrics import Metric

from knots.errors import KnotsError
from knots.files import write_whole

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SavedCounts:
    """The counts of one evaluation, one file for each number of tasks that are done and each process.

    Attributes:
        folder: of nothing else; the name tells the evaluation from all others.
        rank: this process.
        processes: how many there are; those of another number are not gone on from.
    """

    folder: Path
    rank: int = 0
    processes: int = 1

    def done(self, tasks: int) -> int:
        """The largest number of tasks, below `tasks`, that every process has kept.

        The last task is never among them: an evaluation that goes on has something to score.
        """
        counts = range(tasks - 1, 0, -1)
        ranks = range(self.processes)
        return next((n for n in counts if all(self._file(n, rank).is_file() for rank in ranks)), 0)

    def restore(self, done: int, metrics: Mapping[str, Metric]) -> None:
        """Set metrics to what was kept after `done` tasks.

        Raises:
            KnotsError: the file cannot be read, or is damaged.
        """
        path = self._file(done, self.rank)
        try:
            found = load(path.read_bytes())
        except (OSError, SafetensorError) as error:
            raise KnotsError(f"{path} cannot be gone on from ({error}); delete {self.folder}") from error
        for name, metric in metrics.items():
            metric.persistent(mode=True)
            metric.load_state_dict({key: found[f"{name}.{key}"] for key in metric.state_dict()})

    def keep(self, done: int, metrics: Mapping[str, Metric]) -> None:
        """Keep what metrics have counted after `done` tasks."""
        content: dict[str, Tensor] = {}
        for name, metric in metrics.items():
            metric.persistent(mode=True)
            content |= {f"{name}.{key}": value.cpu() for key, value in metric.state_dict().items()}
        try:
            write_whole(self._file(done, self.rank), save(content))
        except OSError as error:
            # The evaluation itself goes on, as well as one of the same that has just ended and tidied up.
            log.info("what was counted is not kept for another call: %s", error)

    def remove(self) -> None:
        """Delete the folder: the evaluation is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, done: int, rank: int) -> Path:
        return self.folder / f"{done}-tasks-{rank}-of-{self.processes}.safetensors"
