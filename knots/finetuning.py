"""Fine-tune LoRA adapters for the vision tower of a CLIP, one a task.

The protocol is the reference's, smaller: text heads frozen, AdamW, warm-up and cosine, stopping by the
accuracy on the validation split, and every task's adapter starting from the same random A.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from knots.errors import KnotsError, unknown
from knots.models.clip import Clip, ClipSpec, load_clip
from knots.models.heads import class_features
from knots.suites.data import ImageArrays, load_split
from knots.suites.tasks import ImageTask, Suite
from knots.training import Batches, build_trainer, cosine_schedule, parse_options, seeded, written_whole

log = logging.getLogger(__name__)

VALIDATION_BATCH = 500


@dataclass(frozen=True)
class FinetuningPlan:
    """How an adapter is trained.

    Attributes:
        rank: of every module's update; alpha equals it, so updates are not scaled.
        dropout: of the inputs of A.
        modules: the linear modules that get an update, by the end of their names.
        steps: the most optimizer steps, of `batch_size` pictures each.
        learning_rate: the highest one, after `warmup` steps; a cosine leads it to zero.
        weight_decay: AdamW's.
        validate_every: steps between two looks at the validation split.
        patience: looks without a new best after which training stops.
        scale: what the cosines are multiplied by to be logits.
        shift: the most pixels by which a batch is shifted, as augmentation.
        seed: of the shared A, the order of the pictures and dropout; the same for every task.
    """

    rank: int
    dropout: float
    modules: tuple[str, ...]
    steps: int
    batch_size: int
    learning_rate: float
    warmup: int
    weight_decay: float
    validate_every: int
    patience: int
    scale: float
    shift: int
    seed: int


class Finetuning(L.LightningModule):
    """Trains a CLIP whose vision tower carries LoRA to tell the classes of one task apart.

    Shapes: B pictures, C classes, D size of the feature space.

    Attributes:
        accuracy: the best on the validation split so far, as a fraction.
        best: the adapter's tensors that reached it.
    """

    heads: Tensor

    def __init__(self, clip: Clip, tower: Any, heads: Tensor, plan: FinetuningPlan) -> None:
        super().__init__()
        self.clip, self.tower, self.plan = clip, tower, plan
        # Inference tensors, as text features may be, cannot take part in training.
        self.register_buffer("heads", heads.clone(), persistent=False)
        self.accuracy, self.best = -1.0, dict[str, Tensor]()
        self._correct = self._seen = self._stale = 0

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits [B, C] of uint8 pictures [B, H, W, 3]: scaled cosines with the frozen heads."""
        logits: Tensor = self.plan.scale * self.clip(pictures) @ self.heads.T
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], step: int) -> Tensor:
        """Cross-entropy over the task's own classes."""
        del step
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], step: int) -> None:
        """Count what is right."""
        del step
        self._correct += int((self(batch[0]).argmax(dim=1) == batch[1]).sum())
        self._seen += len(batch[1])

    def on_validation_epoch_end(self) -> None:
        """Keep the adapter if it is the best so far; stop when it has not been for a while."""
        accuracy = self._correct / max(1, self._seen)
        self._correct = self._seen = 0
        self.log("accuracy", accuracy, prog_bar=True)
        log.info("step %d: validation accuracy %.2f %%", self.global_step, 100 * accuracy)
        self._stale += 1
        if accuracy > self.accuracy:
            state = get_peft_model_state_dict(self.tower)
            self.accuracy, self._stale = accuracy, 0
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        self.trainer.should_stop = self._stale >= self.plan.patience

    def configure_optimizers(self) -> Any:
        """AdamW on the adapter alone, with a linear warm-up and a cosine."""
        plan = self.plan
        weights = [weight for weight in self.tower.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=plan.learning_rate, weight_decay=plan.weight_decay)
        return cosine_schedule(optimizer, plan.warmup, plan.steps)


def parse_plan(config: Mapping[str, Any]) -> FinetuningPlan:
    """Read a plan from plain values; KnotsError for a key that is unknown, absent or out of range."""
    plan = parse_options(FinetuningPlan, {**config, "modules": tuple(config.get("modules", ()))}, "finetune")
    for key in ("rank", "batch_size", "validate_every"):
        if getattr(plan, key) < 1:
            raise KnotsError(f"finetune.{key} must be at least 1, got {getattr(plan, key)}")
    return plan


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
) -> Iterator[tuple[str, dict[str, float] | None]]:
    """Train the adapters of some tasks of a suite in turn.

    Args:
        spec: the base.
        suite: the tasks there are.
        tasks: the name of one, or several, or `all`.
        plan: how to train each.
        folder: each goes into a folder below, named after its task.
        trainer: further options of `lightning.Trainer`.
        cache_dir: where pictures are kept.
        force: train adapters that are there already again.

    Yields:
        Each task's name and what `finetune` measured, or None for an adapter that was there.

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
    for one in suite.tasks:
        if not {one.name, "all"} & set(wanted):
            continue
        place = folder / one.name
        if (place / "adapter_config.json").is_file() and not force:
            yield one.name, None
            continue
        data = {split: load_split(one, split, cache_dir) for split in ("train", "validation")}
        yield one.name, finetune(clip, one, data, plan, place, trainer)


def finetune(
    clip: Clip,
    task: ImageTask,
    data: Mapping[str, ImageArrays],
    plan: FinetuningPlan,
    folder: Path,
    trainer: Mapping[str, Any],
) -> dict[str, float]:
    """Train one task's adapter and save it as a PEFT folder of float16 safetensors.

    Args:
        clip: the base; it is given back as it was.
        task: the classes and prompts.
        data: the splits `train` and `validation`.
        plan: how to train.
        folder: where the adapter goes; it appears when it is complete, an older one is replaced.
        trainer: further options of `lightning.Trainer`, such as accelerator, devices, callbacks.

    Returns:
        The accuracies on the validation split, in percent, of the base (`zero_shot`) and of the adapter
        (`finetuned`).
    """
    heads = class_features(clip.encode_text, task.classes, task.templates)
    loader = DataLoader(_tensors(data["validation"]), batch_size=VALIDATION_BATCH)
    with seeded(plan.seed):
        tower: Any = get_peft_model(clip.tower, _lora(plan))
        try:
            module = Finetuning(clip, tower, heads, plan)
            batches = Batches(
                data["train"].images, data["train"].labels, plan.batch_size, plan.seed, plan.shift
            )
            fit = build_trainer(plan.steps, {"val_check_interval": plan.validate_every, **trainer})
            fit.validate(module, loader, verbose=False)
            zero_shot, module.accuracy = module.accuracy, -1.0
            # Only LoRA's dropout tells training from evaluation; the trainer sets it aside while validating.
            module.train()
            fit.fit(module, DataLoader(batches, batch_size=None), loader)
            set_peft_model_state_dict(tower, module.best)
            save_lora(tower, folder)
        finally:
            tower.unload()
            clip.eval()
    return {"zero_shot": 100 * zero_shot, "finetuned": 100 * module.accuracy}


def save_lora(tower: Any, folder: Path) -> None:
    """Write the adapter of a PEFT model: float16 safetensors and a configuration that names no machine."""
    with written_whole(folder) as unfinished:
        state = {name: tensor.half() for name, tensor in tower.state_dict().items() if "lora_" in name}
        tower.save_pretrained(unfinished, state_dict=state)
        (unfinished / "README.md").unlink(missing_ok=True)
        config = unfinished / "adapter_config.json"
        # PEFT keeps the modules as a set: in another process their order would be another.
        values = json.loads(config.read_text())
        values |= {"target_modules": sorted(values["target_modules"]), "base_model_name_or_path": None}
        config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    log.info("saved %s", folder)


def _lora(plan: FinetuningPlan) -> LoraConfig:
    return LoraConfig(
        r=plan.rank, lora_alpha=plan.rank, lora_dropout=plan.dropout, target_modules=list(plan.modules)
    )


def _tensors(data: ImageArrays) -> TensorDataset:
    return TensorDataset(torch.tensor(data.images), torch.tensor(data.labels))
