"""What the runs of one call share: base, adapters, heads, and what rules ask of the data."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console
from torch import Tensor

from knots.adapters import Adapter, is_zero_update, load_adapter
from knots.errors import KnotsError
from knots.evaluation.calibration import collect_fishers, collect_grams
from knots.evaluation.images import LOGIT_SCALE
from knots.merging import merge
from knots.models.bases import Base, find_base
from knots.models.clip import Clip
from knots.models.families import FAMILIES, Model
from knots.models.full import load_finetuned
from knots.models.heads import Heads, build_heads
from knots.models.task_heads import task_heads
from knots.models.text import text_identity
from knots.pipelines.plans import MergePlan
from knots.pipelines.progress import EvaluationBar
from knots.suites.data import Reading, Sample, load_split
from knots.suites.texts import TextReading

log = logging.getLogger(__name__)

CALIBRATED = {"regmean": "grams", "fisher": "fishers"}
"""Rules that look at data, and the option of `merge` that takes what they saw."""

CALIBRATION_BATCH = {"vision": 32, "language": 4096}
"""The most images, or tokens, whose inputs and gradients are looked at together."""

DTYPES = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}


class Bench:
    """What the runs of one call share, each part loaded when it is first needed."""

    def __init__(self, plan: MergePlan, console: Console) -> None:
        self.plan, self.console = plan, console
        self._class_heads: Heads | None = None

    @cached_property
    def adapters(self) -> list[Adapter]:
        """One adapter a task, in the suite's order.

        Raises:
            KnotsError: one cannot be loaded, or what stands for the base is not the base.
        """
        model, tasks = self.plan.model, self.plan.suite.task_names
        if model.updates == "full":
            assert isinstance(self.model, Clip)
            return [load_finetuned(model.adapter_of(task), self.model, name=task) for task in tasks]
        if model.pretrained is not None:
            _check_zero(model.pretrained)
        return [load_adapter(model.adapter_of(task), name=task) for task in tasks]

    @cached_property
    def base(self) -> Base:
        """Where the base is, and what tells it from others."""
        return find_base(self.plan.model.base, self.plan.model.revision)

    @cached_property
    def text(self) -> dict[str, str] | None:
        """What tells the text tower from others, where it is not the base's own."""
        return None if self.plan.model.text is None else text_identity(self.plan.model.text)

    @cached_property
    def reading(self) -> Reading | TextReading:
        """How items become what the base takes."""
        return FAMILIES[self.plan.model.family].reading(self.base, self.plan.data)

    @cached_property
    def model(self) -> Model:
        """The base in the plan's precision."""
        dtype = DTYPES[self.plan.scoring.precision]
        return FAMILIES[self.plan.model.family].load(self.plan.model.spec, self.base, dtype)

    @cached_property
    def task_heads(self) -> list[Tensor] | None:
        """Each task's own head, where tasks bring one; of images the class names make them."""
        if self.plan.suite.modality == "vision":
            return None
        return task_heads(self.adapters, self.plan.model.heads, self.plan.cache_dir)

    @property
    def heads(self) -> list[Tensor] | Callable[[torch.device], Heads]:
        """What `evaluate` takes: the tasks' own heads, or what embeds class names on a device."""
        return self.class_heads if self.task_heads is None else self.task_heads

    def class_heads(self, device: torch.device) -> Heads:
        """Class features of every task and of their union; embedded on `device` if they are not cached."""
        if self._class_heads is None:
            assert isinstance(self.model, Clip)
            self._class_heads = build_heads(self.model, self.plan.suite, self.plan.cache_dir, device)
        return self._class_heads

    def merged(self, device: torch.device) -> Adapter:
        """The merge of the adapters, with what its rule wants to know of the data, and the heads in use."""
        statistics, plan = self._statistics(device), self.plan
        merged = merge(self.adapters, **plan.options, **statistics, seed=plan.seed, device=device)
        if self.task_heads is None:
            return merged
        heads = zip(plan.suite.task_names, self.task_heads, strict=True)
        return replace(merged, heads={f"{task}.weight": head for task, head in heads})

    def _statistics(self, device: torch.device) -> dict[str, Any]:
        """Gram matrices or Fishers, for the rules that need them."""
        plan, wanted = self.plan, self.plan.calibration
        rule = plan.options["rule"]
        if rule not in CALIBRATED or wanted is None:
            return {}
        log.info("%s: looking at %d %s items of each task", plan.label, wanted.examples, wanted.split)
        sample = Sample(wanted.examples, wanted.seed)
        splits = [
            load_split(task, wanted.split, plan.cache_dir, self.reading, sample) for task in plan.suite.tasks
        ]
        most = CALIBRATION_BATCH[plan.suite.modality]
        batch = min(plan.scoring.batch_size or most, most)
        if rule == "regmean":
            grams = collect_grams(self.model, self.adapters, splits, batch_size=batch, device=device)
            return {"grams": grams}
        heads = self.task_heads
        fishers = collect_fishers(
            self.model,
            self.adapters,
            self.class_heads(device).tasks if heads is None else heads,
            splits,
            labels=wanted.labels or "sampled",
            batch_size=batch,
            device=device,
            seed=wanted.seed,
            scale=LOGIT_SCALE if heads is None else 1.0,
            absent=None if heads is None else [task.absent for task in plan.suite.text_tasks],
        )
        return {"fishers": fishers}

    def trainer(self, label: str) -> L.Trainer:
        """A trainer that shows one bar and writes nothing.

        Raises:
            KnotsError: Lightning refuses the options.
        """
        bar = EvaluationBar(label, self.plan.suite.task_names, self.console)
        try:
            return L.Trainer(
                **self.plan.trainer,
                precision="32-true",
                logger=False,
                callbacks=[bar],
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
            )
        except (TypeError, ValueError, MisconfigurationException) as error:
            raise KnotsError(f"trainer={dict(self.plan.trainer)}: {error}") from error


def _check_zero(pretrained: str) -> None:
    """Refuse an adapter that stands for the base and is not the base."""
    if not is_zero_update(pretrained):
        raise KnotsError(
            f"model.pretrained={pretrained!r} is no zero update: the adapters would be changes from it, not "
            "from the base; set model.pretrained=null if they are changes from the base"
        )
