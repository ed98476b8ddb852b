"""Going on after a kill: a checkpoint at every validation, in a hidden folder beside the target.

One that is told to stop (`knots.interruption`) writes another one where it is.

Lightning keeps the optimizer, the schedule, the gradient scaler and its loops; the module its progress. This
adds the random generators and what the training is of, writes the file whole, and reads tensors only.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from knots.files import whole_file
from knots.finetuning.lessons import Lesson
from knots.finetuning.plan import FinetuningPlan
from knots.interruption import Interrupted, asked, reason

log = logging.getLogger(__name__)

FORMAT = 2
"""Raised when older checkpoints can no longer be gone on from."""

FILE = "last.ckpt"


def training_folder(target: Path) -> Path:
    """Where the checkpoints of what will be `target` lie."""
    return target.with_name(f".{target.name}.training")


def identity(name: str, lesson: Lesson, plan: FinetuningPlan) -> dict[str, str]:
    """What a training is of, by part: only one that agrees in all of them is gone on with."""
    return {
        "format": str(FORMAT),
        "task": name,
        **lesson.identity(),
        **{f"finetune.{key}": json.dumps(value) for key, value in asdict(plan).items()},
    }


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it: the name stands for a whole file only.

    Lightning's own way goes through memory and the folder for temporary files, which may be small and on
    another disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write one file."""
        del storage_options
        with whole_file(Path(path)) as file:
            torch.save(checkpoint, file)


class Checkpoints(L.Callback):
    """Writes a checkpoint after every validation of a training, and where it is told to stop.

    Puts the random generators back when a training is gone on with.

    Args:
        folder: made when the first checkpoint is written.
        identity: what the training is of.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str]) -> None:
        self.folder, self.identity = folder, dict(identity)
        self._random: dict[str, Tensor] = {}
        self._last = -1

    def find(self) -> dict[str, Any] | None:
        """The checkpoint to go on from, or None; says why one that is there is not used."""
        path = self.folder / FILE
        if not path.is_file():
            return None
        try:
            found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            theirs = found["identity"]
        except Exception as error:  # the unpickler stumbles over damaged bytes in any way
            log.warning("%s is damaged (%s); starting anew", path, type(error).__name__)
            return None
        other = [key for key, value in self.identity.items() if theirs.get(key) != value]
        if other:
            log.warning("%s is of another training (it differs in %s); starting anew", path, ", ".join(other))
            return None
        log.info("going on from step %d", found["global_step"])
        return found

    @property
    def path(self) -> Path:
        """The file that `find` read."""
        return self.folder / FILE

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write it, unless the validation is not one of a training."""
        del pl_module
        if trainer.state.fn == TrainerFn.FITTING:
            self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)
        self._last = trainer.global_step

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what Lightning leaves out."""
        del trainer
        checkpoint["identity"] = self.identity
        checkpoint["random"] = {"cpu": torch.get_rng_state()}
        if pl_module.device.type == "cuda":
            checkpoint["random"]["cuda"] = torch.cuda.get_rng_state(pl_module.device)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember the generators; setting up draws from them again."""
        del trainer, pl_module
        self._random = checkpoint["random"]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Before the first batch: the generators as they were. Before any: stop, if that was asked for."""
        del batch
        states, self._random = self._random, {}
        if "cpu" in states:
            torch.set_rng_state(states["cpu"].cpu())
        if "cuda" in states and pl_module.device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"].cpu(), pl_module.device)
        # Gradients that are summed up over several batches are not kept.
        if batch_idx % trainer.accumulate_grad_batches == 0 and _someone_asked(trainer):
            if trainer.global_step not in (0, self._last):
                self._write(trainer)
            raise Interrupted(reason())

    def remove(self) -> None:
        """Delete the folder: the training is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _someone_asked(trainer: L.Trainer) -> bool:
    """Whether a process of the training was asked to stop; all must stop at the same step."""
    if trainer.world_size == 1:
        return asked()
    return trainer.strategy.reduce_boolean_decision(asked(), all=False)
