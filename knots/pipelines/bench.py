"""What the runs of one call share: base, adapters, class features, and what rules ask of the data."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console

from knots.adapters import Adapter, load_adapter
from knots.errors import KnotsError
from knots.evaluation.calibration import collect_fishers, collect_grams
from knots.evaluation.module import LOGIT_SCALE
from knots.merging import merge
from knots.models.bases import Base, find_base
from knots.models.clip import Clip, clip_reading
from knots.models.families import FAMILIES
from knots.models.full import load_finetuned
from knots.models.heads import Heads, build_heads
from knots.models.text import text_identity
from knots.pipelines.plans import MergePlan
from knots.pipelines.progress import EvaluationBar
from knots.suites.data import Reading, Sample, load_split

log = logging.getLogger(__name__)

CALIBRATED = {"regmean": "grams", "fisher": "fishers"}
"""Rules that look at data, and the option of `merge` that takes what they saw."""

CALIBRATION_BATCH = 32

DTYPES = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}


class Bench:
    """What the runs of one call share, each part loaded when it is first needed."""

    def __init__(self, plan: MergePlan, console: Console) -> None:
        self.plan, self.console = plan, console
        self._heads: Heads | None = None

    @cached_property
    def adapters(self) -> list[Adapter]:
        """One adapter a task, in the suite's order."""
        model, tasks = self.plan.model, self.plan.suite.task_names
        if model.updates == "full":
            return [load_finetuned(model.adapter_of(task), self.clip, name=task) for task in tasks]
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
    def reading(self) -> Reading:
        """How pictures become what the base takes."""
        return clip_reading(self.base, self.plan.data)

    @cached_property
    def clip(self) -> Clip:
        """The base in the plan's precision."""
        clip = FAMILIES[self.plan.model.family].load(self.plan.model.spec, self.base)
        clip.model.to(DTYPES[self.plan.scoring.precision])
        return clip

    def heads(self, device: torch.device) -> Heads:
        """Class features of every task and of their union; embedded on `device` if they are not cached."""
        if self._heads is None:
            self._heads = build_heads(self.clip, self.plan.suite, self.plan.cache_dir, device)
        return self._heads

    def merged(self, device: torch.device) -> Adapter:
        """The merge of the adapters, with what its rule wants to know of the data."""
        return merge(
            self.adapters, **self.plan.options, **self._statistics(device), seed=self.plan.seed, device=device
        )

    def _statistics(self, device: torch.device) -> dict[str, Any]:
        """Gram matrices or Fishers, for the rules that need them."""
        plan, wanted = self.plan, self.plan.calibration
        rule = plan.options["rule"]
        if rule not in CALIBRATED or wanted is None:
            return {}
        log.info("%s: looking at %d %s images of each task", plan.label, wanted.examples, wanted.split)
        sample = Sample(wanted.examples, wanted.seed)
        splits = [
            load_split(task, wanted.split, plan.cache_dir, self.reading, sample)
            for task in plan.suite.image_tasks
        ]
        batch = min(plan.scoring.batch_size, CALIBRATION_BATCH)
        if rule == "regmean":
            grams = collect_grams(self.clip, self.adapters, splits, batch_size=batch, device=device)
            return {"grams": grams}
        fishers = collect_fishers(
            self.clip,
            self.adapters,
            self.heads(device).tasks,
            splits,
            labels=wanted.labels or "sampled",
            batch_size=batch,
            device=device,
            seed=wanted.seed,
            scale=LOGIT_SCALE,
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
