"""Train the tasks of a suite in turn, or one adapter on all of them, each from where it was stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

from knots.errors import KnotsError, unknown
from knots.files import whole_folder
from knots.finetuning.card import Origin, write_card
from knots.finetuning.checkpoint import Checkpoints, WholeFiles, identity, training_folder
from knots.finetuning.decoders import HEAD_FILE
from knots.finetuning.joint import MULTITASK
from knots.finetuning.lessons import Lesson
from knots.finetuning.module import Finetuning, Progress
from knots.finetuning.plan import FinetuningPlan
from knots.finetuning.subjects import check_modality, load_subject, make_joint_lesson, make_lesson
from knots.models.families import Model, Spec
from knots.suites.data import DataOptions, Reading, TextReading, load_split
from knots.suites.tasks import Suite, Task
from knots.training import ReadAhead, Share, SharedBatches, SharedSlices, build_trainer, seeded

log = logging.getLogger(__name__)

SPLITS = ("train", "validation")
"""All that training ever asks for."""

FINISHED: Mapping[str, str] = {"lora": "adapter_config.json", "full": "config.json", "head": HEAD_FILE}
"""The file that tells a finished folder, by kind."""

Loggers = Callable[[str], Logger | None]


def finetune_tasks(
    spec: Spec,
    suite: Suite,
    tasks: str | Sequence[str],
    plan: FinetuningPlan,
    folder: Path,
    trainer: Mapping[str, Any],
    *,
    cache_dir: Path,
    force: bool,
    options: DataOptions | None = None,
    loggers: Loggers | None = None,
    multitask: bool = False,
) -> Iterator[tuple[str, dict[str, float] | None]]:
    """Train some tasks of a suite in turn, each from the base; or one adapter on all of them jointly.

    Args:
        spec: the base.
        suite: the tasks there are.
        tasks: the name of one, or several, or `all`.
        plan: how to train each.
        folder: each goes into a folder below, named after its task, or `multitask`.
        trainer: further options of `lightning.Trainer`.
        cache_dir: where items and class features are kept.
        force: train what is there already again.
        options: how pictures are read.
        loggers: gives a task's logger, which is asked for when its training starts.
        multitask: train one adapter on the tasks jointly, which is called `multitask`.

    Yields:
        Each task's name, or `multitask`, and what was measured, or None for one that was there.

    Raises:
        KnotsError: the suite has no such task, or model, suite and plan are not of one modality.
    """
    wanted = [tasks] if isinstance(tasks, str) else list(tasks)
    for name in wanted:
        if name not in (*suite.task_names, "all"):
            raise unknown(f"task of suite {suite.name!r}:", name, (*suite.task_names, "all"))
    check_modality(spec, suite, plan)
    subject = load_subject(spec, plan, options or DataOptions())
    # The commit says more than the name of a branch.
    commit = subject.model.base.identity.get("commit", spec.revision)
    origin = Origin(spec.name, spec.base, commit, suite.name)
    chosen = [one for one in suite.tasks if {one.name, "all"} & set(wanted)]
    trainings = {MULTITASK: chosen} if multitask else {one.name: [one] for one in chosen}
    for name, tasks_of_it in trainings.items():
        place = folder / name
        if not force and _is_finished(place, plan.kind):
            yield name, None
            continue
        data = {one.name: load_splits(one, cache_dir, subject.reading) for one in tasks_of_it}
        known: dict[str, Any] = {
            "origin": origin,
            "logger": loggers(name) if loggers else None,
            "cache_dir": cache_dir,
        }
        if multitask:
            yield name, finetune_jointly(subject.model, chosen, data, plan, place, trainer, **known)
        else:
            (one,) = tasks_of_it
            yield name, finetune(subject.model, one, data[name], plan, place, trainer, **known)


def _is_finished(place: Path, kind: str) -> bool:
    """Whether a folder holds what was to be made.

    Raises:
        KnotsError: it holds the result of the other kind of training, which would be replaced.
    """
    if (place / FINISHED[kind]).is_file():
        return True
    if any((place / file).is_file() for file in FINISHED.values()):
        raise KnotsError(
            f"{place} holds no result of finetune.kind={kind} but one of another kind; give another "
            "folder=... or replace it with force=true"
        )
    return False


def load_splits(task: Task, cache_dir: Path, reading: Reading | TextReading) -> dict[str, Any]:
    """The splits that training uses: never `test`."""
    return {split: load_split(task, split, cache_dir, reading) for split in SPLITS}


def finetune(
    model: Model,
    task: Task,
    data: Mapping[str, Any],
    plan: FinetuningPlan,
    folder: Path,
    trainer: Mapping[str, Any],
    *,
    origin: Origin,
    logger: Logger | None = None,
    cache_dir: Path | None = None,
) -> dict[str, float]:
    """Train one task and save it: a PEFT folder, a full fine-tune as a folder of transformers, or a head.

    A call that was killed is gone on with by the next one, from its last validation; on the CPU the result
    is the same, bit for bit, as without the kill.

    Args:
        model: the base; it is given back as it was.
        task: the classes, with their prompts or masks.
        data: the splits `train` and `validation`, as `load_split` gives them; they may be mapped from disk
            and larger than memory.
        plan: how to train.
        folder: where the result goes; it appears when it is complete, an older one is replaced.
        trainer: further options of `lightning.Trainer`, such as accelerator, devices, callbacks.
        origin: base and suite, for the card.
        logger: gets loss, learning rate and validation accuracy.
        cache_dir: where class features are kept; None keeps none.

    Returns:
        The accuracies on the validation split, in percent, before training (`zero_shot` of a CLIP,
        `untrained` where a fresh head was put on) and of what was trained (`finetuned`).

    Raises:
        KnotsError: model, task and plan are not of one modality, the trainer has not the plan's precision,
            its processes cannot share the batches evenly, or training diverged.
    """
    lesson = make_lesson(model, task, data, plan, cache_dir)
    return _teach(task.name, lesson, plan, folder, trainer, origin, logger)


def finetune_jointly(
    model: Model,
    tasks: Sequence[Task],
    data: Mapping[str, Mapping[str, Any]],
    plan: FinetuningPlan,
    folder: Path,
    trainer: Mapping[str, Any],
    *,
    origin: Origin,
    logger: Logger | None = None,
    cache_dir: Path | None = None,
) -> dict[str, float]:
    """Train one adapter on several tasks at once and save it, as `finetune` does with one task.

    Every batch is of one task, scored among its own classes; the tasks take turns in rounds of random order.
    Accuracies are means over the tasks, and their mean chooses the step that is kept.

    Args:
        model: the base; it is given back as it was.
        tasks: what is learnt, of one modality.
        data: task -> split -> items.
        plan: how to train; its steps are those of all tasks together.
        folder: where the result goes.
        trainer: further options of `lightning.Trainer`.
        origin: base and suite, for the card.
        logger: gets loss, learning rate and validation accuracy.
        cache_dir: where class features are kept; None keeps none.

    Raises:
        KnotsError: as `finetune`; or the tasks are of sentences.
    """
    lesson = make_joint_lesson(model, tasks, data, plan, cache_dir)
    return _teach(MULTITASK, lesson, plan, folder, trainer, origin, logger)


def _teach(
    name: str,
    lesson: Lesson,
    plan: FinetuningPlan,
    folder: Path,
    trainer: Mapping[str, Any],
    origin: Origin,
    logger: Logger | None,
) -> dict[str, float]:
    """Train what a lesson is of and save it with its card."""
    checkpoints = Checkpoints(training_folder(folder), identity(name, lesson, plan))
    with seeded(plan.seed), lesson.in_training() as tower:
        module = Finetuning(lesson, tower, plan)
        fit = _trainer(plan, lesson, trainer, checkpoints, logger)
        train(module, lesson, fit, checkpoints)
        done = module.progress
        if not all(bool(tensor.isfinite().all()) for tensor in done.best.values()):
            raise KnotsError(f"{name}: training diverged; lower finetune.learning_rate={plan.learning_rate}")
        tower.load(done.best)
        before, after = 100 * done.zero_shot, 100 * done.accuracy
        if fit.is_global_zero:
            with whole_folder(folder) as unfinished:
                tower.save(unfinished, getattr(torch, plan.dtype))
                write_card(unfinished, origin, name, lesson.facts(), plan, tower, (before, after))
            checkpoints.remove()
        # No process goes on before the result is there for all.
        fit.strategy.barrier("saved")
    log.info("saved %s", folder)
    return {lesson.before: before, "finetuned": after}


def train(module: Finetuning, lesson: Lesson, fit: L.Trainer, checkpoints: Checkpoints) -> None:
    """Train a module to its end, from a checkpoint where there is one; `progress` gets the best tensors."""
    plan = module.plan
    pinned = isinstance(fit.accelerator, CUDAAccelerator)
    share = Share(fit.global_rank, fit.world_size)
    looked_at = SharedSlices(lesson.validation(), share)
    validation = DataLoader(looked_at, batch_size=None, pin_memory=pinned)
    before = checkpoints.find()
    if before is None:
        fit.validate(module, validation, verbose=False)
        module.progress = Progress(zero_shot=module.progress.accuracy)
    else:
        module.on_load_checkpoint(before)
    done = 0 if before is None else int(before["global_step"])
    del before
    if done < plan.steps and module.progress.stale < plan.patience:
        # Only LoRA's dropout tells training from evaluation; the trainer sets it aside while validating.
        module.train()
        batches = lesson.batches(start=done * fit.accumulate_grad_batches)
        own = SharedBatches(ReadAhead(batches), share)
        loader = DataLoader(own, batch_size=None, pin_memory=pinned)
        if done:
            fit.fit(module, loader, validation, ckpt_path=checkpoints.path, weights_only=True)
        else:
            fit.fit(module, loader, validation)
    if plan.steps % plan.validate_every and module.progress.stale < plan.patience:
        # The last steps are fewer than those between two looks.
        fit.validate(module, validation, verbose=False)


def _trainer(
    plan: FinetuningPlan,
    lesson: Lesson,
    options: Mapping[str, Any],
    checkpoints: Checkpoints,
    logger: Logger | None,
) -> L.Trainer:
    repeats = lesson.accumulate
    own = {
        **({} if repeats is None else {"accumulate_grad_batches": repeats}),
        # The trainer counts batches.
        "val_check_interval": plan.validate_every * (repeats or 1),
        "precision": plan.precision,
        "logger": logger or False,
        "callbacks": [checkpoints, *options.get("callbacks", ())],
        "plugins": [WholeFiles(), *options.get("plugins", ())],
    }
    fit = build_trainer(plan.steps, {**options, **own})
    if plan.batch_size % fit.world_size:
        raise KnotsError(
            f"finetune.batch_size={plan.batch_size} cannot be shared out evenly among {fit.world_size} "
            "processes; choose a multiple, or use one process and one call a task"
        )
    if fit.precision != plan.precision:
        raise KnotsError(
            f"finetune.precision={plan.precision} is not for this device; it can do {fit.precision}"
        )
    return fit
