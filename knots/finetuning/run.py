"""Train the tasks of a suite in turn, each from where it was stopped."""

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
from knots.finetuning.module import Finetuning, Progress
from knots.finetuning.plan import FinetuningPlan
from knots.finetuning.towers import in_training
from knots.models.clip import Clip, ClipSpec, load_clip
from knots.models.heads import task_features
from knots.suites.data import DataOptions, ImageArrays, Reading, load_split
from knots.suites.tasks import ImageTask, Suite
from knots.training import Batches, ReadAhead, Slices, build_trainer, seeded

log = logging.getLogger(__name__)

VALIDATION_BATCH = 500
VALIDATION_BYTES = 32 * 2**20
"""The most pictures, and bytes of them, that are validated at once."""

SPLITS = ("train", "validation")
"""All that training ever asks for."""

FINISHED: Mapping[str, str] = {"lora": "adapter_config.json", "full": "config.json"}
"""The file that tells a finished folder, by kind."""

Loggers = Callable[[str], Logger | None]


def finetune_tasks(
    spec: ClipSpec,
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
) -> Iterator[tuple[str, dict[str, float] | None]]:
    """Train some tasks of a suite in turn, each from the base.

    Args:
        spec: the base.
        suite: the tasks there are.
        tasks: the name of one, or several, or `all`.
        plan: how to train each.
        folder: each goes into a folder below, named after its task.
        trainer: further options of `lightning.Trainer`.
        cache_dir: where pictures and class features are kept.
        force: train what is there already again.
        options: how pictures are read.
        loggers: gives a task's logger, which is asked for when its training starts.

    Yields:
        Each task's name and what `finetune` measured, or None for one that was there.

    Raises:
        KnotsError: the suite has no such task or is no suite of images.
    """
    wanted = [tasks] if isinstance(tasks, str) else list(tasks)
    for name in wanted:
        if name not in (*suite.task_names, "all"):
            raise unknown(f"task of suite {suite.name!r}:", name, (*suite.task_names, "all"))
    if suite.modality != "vision":
        raise KnotsError(f"suite {suite.name!r} is for {suite.modality}; fine-tuning takes suites of images")
    clip = load_clip(spec)
    reading = clip.reading(options or DataOptions())
    # The commit says more than the name of a branch.
    commit = clip.base.identity.get("commit", spec.revision)
    origin = Origin(spec.name, spec.base, commit, suite.name)
    for one in suite.image_tasks:
        if not {one.name, "all"} & set(wanted):
            continue
        place = folder / one.name
        if not force and _is_finished(place, plan.kind):
            yield one.name, None
            continue
        data = load_splits(one, cache_dir, reading)
        logger = loggers(one.name) if loggers else None
        found = finetune(
            clip, one, data, plan, place, trainer, origin=origin, logger=logger, cache_dir=cache_dir
        )
        yield one.name, found


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


def load_splits(task: ImageTask, cache_dir: Path, reading: Reading) -> dict[str, ImageArrays]:
    """The splits that training uses: never `test`."""
    return {split: load_split(task, split, cache_dir, reading) for split in SPLITS}


def finetune(
    clip: Clip,
    task: ImageTask,
    data: Mapping[str, ImageArrays],
    plan: FinetuningPlan,
    folder: Path,
    trainer: Mapping[str, Any],
    *,
    origin: Origin,
    logger: Logger | None = None,
    cache_dir: Path | None = None,
) -> dict[str, float]:
    """Train one task and save it as a PEFT folder, or a full fine-tune as a folder of transformers.

    A call that was killed is gone on with by the next one, from its last validation; on the CPU the result
    is the same, bit for bit, as without the kill.

    Args:
        clip: the base; it is given back as it was.
        task: the classes and prompts.
        data: the splits `train` and `validation`; they may be mapped from disk and larger than memory.
        plan: how to train.
        folder: where the result goes; it appears when it is complete, an older one is replaced.
        trainer: further options of `lightning.Trainer`, such as accelerator, devices, callbacks.
        origin: base and suite, for the card.
        logger: gets loss, learning rate and validation accuracy.
        cache_dir: where class features are kept; None keeps none.

    Returns:
        The accuracies on the validation split, in percent, of the base (`zero_shot`) and of what was
        trained (`finetuned`).

    Raises:
        KnotsError: the trainer has several processes or not the plan's precision, or training diverged.
    """
    (heads,) = task_features(clip, [task], cache_dir)
    parts = identity(clip, heads, task, data, plan)
    checkpoints = Checkpoints(training_folder(folder), parts)
    with seeded(plan.seed), in_training(clip, plan) as tower:
        module = Finetuning(clip, tower, heads, plan)
        fit = _trainer(plan, trainer, checkpoints, logger)
        train(module, fit, data, checkpoints)
        done = module.progress
        if not all(bool(tensor.isfinite().all()) for tensor in done.best.values()):
            raise KnotsError(
                f"{task.name}: training diverged; lower finetune.learning_rate={plan.learning_rate}"
            )
        tower.load(done.best)
        found = {"zero_shot": 100 * done.zero_shot, "finetuned": 100 * done.accuracy}
        with whole_folder(folder) as unfinished:
            tower.save(unfinished, getattr(torch, plan.dtype))
            write_card(unfinished, origin, task, data, plan, tower, found, parts["base"])
    log.info("saved %s", folder)
    checkpoints.remove()
    return found


def train(
    module: Finetuning, fit: L.Trainer, data: Mapping[str, ImageArrays], checkpoints: Checkpoints
) -> None:
    """Train a module to its end, from a checkpoint where there is one; `progress` gets the best tensors."""
    plan = module.plan
    pinned = isinstance(fit.accelerator, CUDAAccelerator)
    validation = _validation(data["validation"], pinned)
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
        images, labels = data["train"].images, data["train"].labels
        start = done * fit.accumulate_grad_batches
        batches = Batches(images, labels, plan.batch_size, plan.seed, plan.shift, start)
        loader = DataLoader(ReadAhead(batches), batch_size=None, pin_memory=pinned)
        if done:
            fit.fit(module, loader, validation, ckpt_path=checkpoints.path, weights_only=True)
        else:
            fit.fit(module, loader, validation)
    if plan.steps % plan.validate_every and module.progress.stale < plan.patience:
        # The last steps are fewer than those between two looks.
        fit.validate(module, validation, verbose=False)


def _trainer(
    plan: FinetuningPlan, options: Mapping[str, Any], checkpoints: Checkpoints, logger: Logger | None
) -> L.Trainer:
    own = {
        "val_check_interval": plan.validate_every,
        "precision": plan.precision,
        "logger": logger or False,
        "callbacks": [checkpoints, *options.get("callbacks", ())],
        "plugins": [WholeFiles(), *options.get("plugins", ())],
    }
    fit = build_trainer(plan.steps, {**options, **own})
    if fit.world_size > 1:
        raise KnotsError(
            f"fine-tuning runs in one process, but the trainer has {fit.world_size}; use trainer=gpu, and "
            "one call a task to use several devices"
        )
    if fit.precision != plan.precision:
        raise KnotsError(
            f"finetune.precision={plan.precision} is not for this device; it can do {fit.precision}"
        )
    return fit


def _validation(data: ImageArrays, pinned: bool) -> DataLoader[Any]:
    size = int(max(1, min(VALIDATION_BATCH, VALIDATION_BYTES // max(1, data.images[:1].nbytes))))
    return DataLoader(Slices(data.images, data.labels, size), batch_size=None, pin_memory=pinned)
