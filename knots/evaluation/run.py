"""Evaluate one predictor on a suite."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import lightning as L
from torch import Tensor

from knots.errors import KnotsError, unknown
from knots.evaluation.images import HeadsOrMaker, ImageEvaluation
from knots.evaluation.module import Settings, SuiteEvaluation
from knots.evaluation.predictors import Ensemble, Predictor, Router
from knots.evaluation.results import EvaluationResult
from knots.evaluation.routed import RoutedEvaluation
from knots.evaluation.texts import TextEvaluation
from knots.models.clip import Clip
from knots.models.families import Model
from knots.suites.data import Reading
from knots.suites.tasks import Suite
from knots.suites.texts import TextReading

log = logging.getLogger(__name__)

MODES = ("per_task", "joint", "all")
PROTOCOLS = ("float32", "reference")


def evaluate(
    model: Model,
    suite: Suite,
    predictor: Predictor,
    *,
    mode: str,
    protocol: str,
    split: str,
    cache_dir: str | Path,
    batch_size: int | None,
    trainer: L.Trainer,
    heads: HeadsOrMaker | Sequence[Tensor] = None,
    reading: Reading | TextReading | None = None,
    kept: Path | None = None,
) -> EvaluationResult:
    """Score a predictor on every task of a suite.

    Under several processes each of them calls this and each gets the whole result. The base is the
    same afterwards as before, bit for bit, also when the evaluation fails.

    Args:
        model: the base, a `Clip` for a suite of images or a `Classifier` for one of sentences.
        suite: the tasks.
        predictor: what to score: `Merged`, `Single`, `Multitask`, `ZeroShot`, `Finetuned`, and of images only
            `Ensemble` and `Router`.
        mode: `per_task` (top-1 among a task's own classes), `joint` (ranks among the classes of all
            tasks, images only) or `all`, which is `per_task` for sentences.
        protocol: `float32`; or for images `reference`, the KnOTS paper's: per task under float16 autocast
            with cosines times 100, jointly in float32. The paper's numbers come from GPUs; half precision of
            a CPU rounds elsewhere, which the result notes. A model that is itself in half precision computes
            in it; logits are always float32.
        split: train, validation or test.
        cache_dir: root of the data caches.
        batch_size: images that go through the vision tower at once, counting an ensemble's copies; of
            sentences the tokens, padding included, where None is what suits the device.
        trainer: made by the caller, in precision 32; its devices and strategy are used.
        heads: class features, or what embeds them on a device; embedded from the suite's prompts if None.
            Of sentences, each task's own head [C, D], in the suite's order.
        reading: how items become what the model takes; None takes pictures as they are.
        kept: a folder of this very evaluation, where what was counted is kept after every task, and gone on
            from; the caller removes it once the result is safe. None keeps nothing.

    Raises:
        KnotsError: an unknown mode, protocol or split, a suite that the model does not take or that has no
            such mode, an adapter or a head that does not fit, or a trainer that cannot be used.
    """
    _check(suite, mode, protocol, batch_size, trainer)
    if suite.modality == "language":
        mode = own_mode(suite, mode)
    settings = Settings(mode, protocol, split, Path(cache_dir), batch_size, reading, kept)
    module = _module(model, suite, predictor, settings, heads)
    for task in suite.tasks:
        for needed in module.splits:
            task.size(needed)
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


def _check(suite: Suite, mode: str, protocol: str, batch_size: int | None, trainer: L.Trainer) -> None:
    """Raise unless an evaluation can be done with these."""
    if mode not in MODES:
        raise unknown("evaluation mode", mode, MODES)
    if protocol not in PROTOCOLS:
        raise unknown("evaluation protocol", protocol, PROTOCOLS)
    if batch_size is None and suite.modality == "vision":
        raise KnotsError("images need a batch size")
    if batch_size is not None and batch_size < 1:
        raise KnotsError(f"the batch size must be at least 1, got {batch_size}")
    if trainer.precision != "32-true":
        raise KnotsError(
            f"the trainer has precision {trainer.precision!r}, but the precision of an evaluation is part "
            "of its protocol: use a trainer in precision '32-true'"
        )


def own_mode(suite: Suite, mode: str) -> str:
    """The mode in which a suite of sentences is scored: each task among its own classes.

    Raises:
        KnotsError: the classes of all tasks were asked for.
    """
    if mode == "joint":
        raise KnotsError(
            f"eval=joint: suite {suite.name!r} is of language; its tasks share their labels, so there is no "
            "union of them; use eval=per_task"
        )
    return "per_task"


def check_protocol(suite: Suite, protocol: str) -> None:
    """Refuse the reference's protocol for images on a suite of sentences."""
    if protocol != "float32":
        raise KnotsError(
            f"eval.protocol={protocol!r} is for images; suite {suite.name!r} is of language, whose reference "
            "is a model in float32: precision=32"
        )


def _module(
    model: Model,
    suite: Suite,
    predictor: Predictor,
    settings: Settings,
    heads: HeadsOrMaker | Sequence[Tensor],
) -> SuiteEvaluation:  # type: ignore[type-arg]
    """What scores suites of this modality.

    Raises:
        KnotsError: the model is not of it, or the predictor or the protocol is for images.
    """
    takes = "images" if isinstance(model, Clip) else "sentences"
    if (takes == "images") != (suite.modality == "vision"):
        raise KnotsError(f"suite {suite.name!r} is of {suite.modality}, but the model takes {takes}")
    if isinstance(model, Clip):
        assert not isinstance(heads, Sequence)
        if isinstance(predictor, Router):
            return RoutedEvaluation(model, suite, predictor, settings, heads)
        return ImageEvaluation(model, suite, predictor, settings, heads)
    if isinstance(predictor, Ensemble):
        raise KnotsError(f"suite {suite.name!r} is of language, which has no ensemble of cosine scores")
    if isinstance(predictor, Router):
        raise KnotsError(f"suite {suite.name!r} is of language, which has no router: it is for joint labels")
    check_protocol(suite, settings.protocol)
    if not isinstance(heads, Sequence) or not isinstance(settings.reading, TextReading):
        raise KnotsError(f"suite {suite.name!r}: each task's own head and the model's tokenizer are needed")
    return TextEvaluation(model, suite, predictor, settings, heads)
