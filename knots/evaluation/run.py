"""Evaluate one predictor on a suite."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning as L

from knots.errors import KnotsError, unknown
from knots.evaluation.module import HeadsOrMaker, Settings, SuiteEvaluation
from knots.evaluation.predictors import Predictor
from knots.evaluation.results import EvaluationResult
from knots.models.clip import Clip
from knots.suites.data import Reading
from knots.suites.tasks import Suite

log = logging.getLogger(__name__)

MODES = ("per_task", "joint", "all")
PROTOCOLS = ("float32", "reference")


def evaluate(
    clip: Clip,
    suite: Suite,
    predictor: Predictor,
    *,
    mode: str,
    protocol: str,
    split: str,
    cache_dir: str | Path,
    batch_size: int,
    trainer: L.Trainer,
    heads: HeadsOrMaker = None,
    reading: Reading | None = None,
) -> EvaluationResult:
    """Score a predictor on every task of a suite.

    Under several processes each of them calls this and each gets the whole result. The base is the
    same afterwards as before, bit for bit, also when the evaluation fails.

    Args:
        clip: the base, which must be in float32 where a dense merge is scored.
        suite: a suite of images.
        predictor: what to score: `Merged`, `Ensemble`, `ZeroShot` or `Finetuned`.
        mode: `per_task` (top-1 among a task's own classes), `joint` (ranks among the classes of all
            tasks) or `all`.
        protocol: `float32`; or `reference`, the KnOTS paper's: per task under float16 autocast with
            cosines times 100, jointly in float32. The paper's numbers come from GPUs; half precision of
            a CPU rounds elsewhere, which the result notes.
        split: train, validation or test.
        cache_dir: root of the data caches.
        batch_size: images that go through the vision tower at once, counting an ensemble's copies.
        trainer: made by the caller, in precision 32; its devices and strategy are used.
        heads: class features, or what embeds them on a device; embedded from the suite's prompts if None.
        reading: how pictures become what the model takes; None takes them as they are.

    Raises:
        KnotsError: an unknown mode, protocol or split, a suite that is not of images, an adapter
            that does not fit the model, or a trainer that cannot be used.
    """
    if mode not in MODES:
        raise unknown("evaluation mode", mode, MODES)
    if protocol not in PROTOCOLS:
        raise unknown("evaluation protocol", protocol, PROTOCOLS)
    if suite.modality != "vision":
        raise KnotsError(f"suite {suite.name!r} is of {suite.modality}, but the model takes images")
    if batch_size < 1:
        raise KnotsError(f"the batch size must be at least 1, got {batch_size}")
    if trainer.precision != "32-true":
        raise KnotsError(
            f"the trainer has precision {trainer.precision!r}, but the precision of an evaluation is part "
            "of its protocol: use a trainer in precision '32-true'"
        )
    for task in suite.tasks:
        task.size(split)
    settings = Settings(mode, protocol, split, Path(cache_dir), batch_size, reading)
    module = SuiteEvaluation(clip, suite, predictor, settings, heads)
    try:
        trainer.test(module, verbose=False)
    finally:
        module.restore()
    if module.result is None:
        raise KnotsError(
            f"the strategy {type(trainer.strategy).__name__} does not give results back to the process that "
            "started it; use strategy='ddp' (each process runs the script) instead of a spawning one"
        )
    if module.result.unscored:
        log.warning(
            "%s: %d items have scores that are not finite and count as wrong (is the scale too large?)",
            predictor.kind,
            module.result.unscored,
        )
    return module.result
