"""Where the time of a pipeline goes: seconds by stage, and what went through the base model.

Functions of the library are replaced, for as long as one looks, by ones that tell a clock which stage they
are. A moment counts for the innermost stage alone, so that the stages add up to the whole.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch

from benchmarks._measuring import synchronize
from knots import drafts, merging, prefetching, runs
from knots.adapters import saving, shortening
from knots.analysis import costs, probes
from knots.evaluation import calibration, run, saved, summary
from knots.models import attach, classifier, clip
from knots.pipelines import merge as merge_pipeline
from knots.pipelines import rehearsal, trainers, workshop
from knots.pipelines.reproduce import differences, experiment
from knots.reporting import charts, figures
from knots.search import log
from knots.suites import data

MERGING = "merging"
ATTACHING = "putting updates on the base and off"
FORWARD = "forward passes"
SCORING = "scoring beside them"
WAITING = "waiting for data"
CALIBRATING = "looking at calibration items"
MEASURING = "measuring what merges cost"
CHECKING = "trying plans before they run"
LOADING = "loading base, adapters, heads, data"
STATISTICS = "statistics"
DRAWING = "drawing figures"
FILES = "reading and writing results"
OTHER = "other"
STAGES = (
    *(FORWARD, SCORING, WAITING, MERGING, ATTACHING, CALIBRATING, MEASURING, CHECKING),
    *(LOADING, STATISTICS, DRAWING, FILES, OTHER),
)

WHOLE = (CALIBRATING, MEASURING, CHECKING)
"""Stages that are not divided: what merges, goes through the base or draws within them counts for them."""

FUNCTIONS: Mapping[Callable[..., Any], str] = {
    merging.merge: MERGING,
    shortening.shorten_all: MERGING,
    attach.attach: ATTACHING,
    attach.beside: ATTACHING,
    calibration.collect_grams: CALIBRATING,
    calibration.collect_fishers: CALIBRATING,
    costs.measure_cost: MEASURING,
    probes.factor_change: MEASURING,
    rehearsal.rehearse: CHECKING,
    run.evaluate: SCORING,
    trainers.quiet_trainer: SCORING,
    data.load_split: LOADING,
    summary.summarize: STATISTICS,
    differences.compare_methods: STATISTICS,
    differences.detectable_row: STATISTICS,
    differences.differences_sheet: STATISTICS,
    figures.result_figure: DRAWING,
    figures.save_figure: DRAWING,
    charts.bars: DRAWING,
    merge_pipeline.run_identity: FILES,
    runs.find_run: FILES,
    saving.save_adapter: FILES,
    experiment.keep: FILES,
}
"""Functions, wherever the library holds them, and the stages that they are."""

METHODS = (
    (attach.Attached, "restore", ATTACHING),
    (workshop.Workshop, "_part", LOADING),
    (workshop.Workshop, "class_heads", LOADING),
    (saved.SavedCounts, "keep", FILES),
    (log.TrialLog, "add", FILES),
    (runs.Run, "predictions", FILES),
    (pd.DataFrame, "to_parquet", FILES),
)


class Stages:
    """A clock that says by stage where the time of this thread went; other threads do not count.

    On a GPU it waits for the device at the borders of stages, so that work is not told to a later one; that
    makes the whole a little slower than it is unwatched.

    Args:
        device: where the pipeline computes.

    Attributes:
        seconds: of each stage.
        calls: of each function, by its name.
        passes: of the base model, for "evaluation" and for "calibration".
        items: that went through it in them, likewise; an ensemble's copies each count.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.calls: Counter[str] = Counter()
        self.passes: Counter[str] = Counter()
        self.items: Counter[str] = Counter()
        self._device = device
        self._open: list[str] = []
        self._since = 0.0

    @property
    def total(self) -> float:
        """Seconds of all stages together."""
        return sum(self.seconds.values())

    @property
    def now(self) -> str:
        """The innermost stage."""
        return self._open[-1]

    @contextmanager
    def within(self, stage: str) -> Iterator[None]:
        """A part of a stage that may have others within it."""
        self._tick()
        self._open.append(stage)
        try:
            yield
        finally:
            self._tick()
            self._open.pop()

    def _tick(self) -> None:
        """Give the time since the last border to the stage that is open."""
        synchronize(self._device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self.now] += now - self._since
        self._since = now

    @contextmanager
    def watching(self) -> Iterator[Stages]:
        """Watch the library; what is in no stage is "other"."""
        with ExitStack() as replaced:
            for function, stage in FUNCTIONS.items():
                for module, name in _places(function):
                    replaced.enter_context(patch.object(module, name, self._timed(function, stage)))
            for owner, name, stage in METHODS:
                replaced.enter_context(patch.object(owner, name, self._timed(getattr(owner, name), stage)))
            for family in (clip.Clip, classifier.Classifier):
                replaced.enter_context(patch.object(family, "forward", self._counted(family.forward)))
            for module, name in _places(prefetching.read_ahead):
                replaced.enter_context(patch.object(module, name, self._waited(prefetching.read_ahead)))
            for module, name in _places(drafts.writing):
                replaced.enter_context(patch.object(module, name, self._framed(drafts.writing)))
            with self.within(OTHER):
                yield self

    def _here(self) -> bool:
        """Whether the clock is to be told: not in another thread, and not in a stage that is one piece."""
        return threading.current_thread() is threading.main_thread() and self.now not in WHOLE

    def _timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            if not self._here():
                return function(*args, **options)
            self.calls[function.__name__] += 1
            with self.within(stage):
                return function(*args, **options)

        return call

    def _counted(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def call(model: Any, batch: Any, *args: Any, **options: Any) -> Any:
            purpose = "calibration" if self.now == CALIBRATING else "evaluation"
            self.passes[purpose] += 1
            self.items[purpose] += len(batch)
            if not self._here():
                return forward(model, batch, *args, **options)
            with self.within(FORWARD):
                return forward(model, batch, *args, **options)

        return call

    def _waited(self, read_ahead: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        @functools.wraps(read_ahead)
        def batches(*args: Any, **options: Any) -> Iterator[Any]:
            inner = read_ahead(*args, **options)
            try:
                while True:
                    # In a stage that is one piece waiting is a part of it.
                    with self.within(WAITING if self._here() else self.now):
                        batch = next(inner, None)
                    if batch is None:
                        return
                    yield batch
            finally:
                inner.close()

        return batches

    def _framed(self, writing: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(writing)
        @contextmanager
        def frame(*args: Any, **options: Any) -> Iterator[Any]:
            with ExitStack() as stack:
                with self.within(FILES):
                    draft = stack.enter_context(writing(*args, **options))
                yield draft
                with self.within(FILES):
                    stack.close()

        return frame


def _places(function: Callable[..., Any]) -> list[tuple[Any, str]]:
    """The modules of the library that hold a function, each with its name there."""
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == "knots"]
    return [(m, name) for m in modules for name, value in vars(m).items() if value is function]
