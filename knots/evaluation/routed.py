"""Scoring pictures that a router has sent to one of the adapters."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from torch import Tensor

from knots.evaluation.batches import Batch
from knots.evaluation.images import ImageEvaluation
from knots.evaluation.results import Counts
from knots.evaluation.routing import PROTOTYPES, RoutedCut, Routes, nearest, prototypes
from knots.suites.data import ImageArrays, load_split
from knots.suites.texts import TextReading

log = logging.getLogger(__name__)


class RoutedEvaluation(ImageEvaluation):
    """Scores a CLIP whose adapters take turns: every image through that of the task it looks most like.

    The base looks at all images first. Then those of a task are scored sorted by adapter, so that adapters
    change as rarely as can be.
    """

    @property
    def splits(self) -> tuple[str, ...]:
        """The split that is scored, and what tasks are recognized by."""
        return tuple(dict.fromkeys((self.settings.split, PROTOTYPES)))

    def cut(self, arrays: ImageArrays, task: int, copies: int, pinned: bool) -> RoutedCut:
        """Batches of pictures for one adapter each."""
        del copies  # one adapter at a time
        routes = self._routes_of(arrays)
        self._routes.append(routes)
        return RoutedCut(arrays, task, routes, self._batch_size, pinned)

    def place_of(self, batch: Batch) -> int:
        """The adapter that the batch is routed to."""
        assert batch.route is not None
        return batch.route

    @property
    def routed(self) -> Counts:
        """[T, T], where the items of each task were sent."""
        tasks = len(self.suite.tasks)
        return np.stack([np.bincount(routes, minlength=tasks) for routes in self._routes])

    def notes(self) -> Sequence[str]:
        """How many images found the adapter of their own task."""
        counts = self.routed
        shares = [
            f"{task} {100 * counts[place, place] / counts[place].sum():.1f} %"
            for place, task in enumerate(self.suite.task_names)
            if counts[place].sum()
        ]
        return (*super().notes(), f"routed to their own task's adapter: {', '.join(shares)}")

    @property
    def _batch_size(self) -> int:
        assert self.settings.batch_size is not None
        return self.settings.batch_size

    @cached_property
    def _routes(self) -> list[Routes]:
        """One entry a task whose split was cut."""
        return []

    def _routes_of(self, arrays: ImageArrays) -> Routes:
        """The task that each image looks like; found by one process, so that all cut the same batches."""
        routes = np.empty(0, np.int64)
        if self.trainer.is_global_zero:
            routes = nearest(self.model, arrays, self._prototypes, self._batch_size)
        return self.trainer.strategy.broadcast(routes)

    @cached_property
    def _prototypes(self) -> Tensor:
        """[T, D], what the base makes of the tasks' validation images."""
        settings, tasks = self.settings, self.suite.image_tasks
        assert not isinstance(settings.reading, TextReading)
        log.info("router: looking at the %s images of %d tasks", PROTOTYPES, len(tasks))
        splits = [load_split(task, PROTOTYPES, settings.cache_dir, settings.reading) for task in tasks]
        return prototypes(self.model, splits, self.suite.task_names, self._batch_size)
