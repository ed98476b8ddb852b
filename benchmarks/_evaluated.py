"""What `evaluation.py` scores: a merge and items in memory, as `experiments/merge.py` would have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from experiments._cli import CONF, plain
from knots.adapters import Adapter
from knots.evaluation import EvaluationResult
from knots.evaluation.batches import Batch, Cut, ImageCut, ShardedBatches, TextBatch, TextCut, sharded_loaders
from knots.evaluation.scores import class_scores, top1
from knots.evaluation.texts import token_budget
from knots.models.clip import Clip
from knots.pipelines import parse_merge
from knots.pipelines.bench import merger
from knots.pipelines.plans import MergePlan
from knots.pipelines.values import names_of, whole
from knots.pipelines.workshop import Workshop
from knots.suites.data import load_split


def planned(cfg: Any, model: str, precision: str, tokens: int | None = None) -> MergePlan:
    """What `experiments/merge.py` would run, over the first items of each task."""
    words = [f"model={model}", f"merge={cfg.merge}", "logger=none", f"precision={precision}"]
    words += [f"trainer={'cpu' if cfg.device == 'cpu' else 'gpu'}", f"batch_size={cfg.batch_size}"]
    words += [f"batch_tokens={'null' if tokens is None else tokens}", *cfg.overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = plain(compose("merge", overrides=words))
    config["tasks"] = None if cfg.tasks is None else names_of("tasks", list(cfg.tasks))
    for task in config["suite"]["tasks"].values():
        task["sizes"]["test"] = min(whole("items", cfg.items), task["sizes"]["test"])
    return parse_merge(config)


@dataclass(frozen=True, eq=False)
class Stage:
    """A merge, and the items that are scored with it.

    Attributes:
        plan: how.
        shop: the base and what belongs to it.
        adapter: the merge, on the device.
        cuts: the tasks' items, cut as the evaluation cuts them.
        batches: all of them on the device.
    """

    plan: MergePlan
    shop: Workshop
    adapter: Adapter
    cuts: Sequence[Cut[Any]]
    batches: Sequence[Batch | TextBatch]

    @property
    def items(self) -> int:
        """Number of items."""
        return sum(cut.items for cut in self.cuts)

    @property
    def tokens(self) -> int | None:
        """Number of tokens, padding aside; None of pictures."""
        lengths = [int(cut.arrays.lengths.sum()) for cut in self.cuts if isinstance(cut, TextCut)]
        return sum(lengths) if lengths else None

    @property
    def loaders(self) -> list[ShardedBatches[Any]]:
        """One a task, as the evaluation has them."""
        return sharded_loaders(self.cuts, 0, 1)


def on_stage(plan: MergePlan, shop: Workshop, device: torch.device) -> Stage:
    """Merge, and read every item."""
    adapter = merger(plan, shop, device)(shop.prepared)
    splits = [load_split(task, "test", plan.cache_dir, shop.reading) for task in plan.suite.tasks]
    pinned, model = device.type == "cuda", shop.model.to(device)
    cuts: list[Cut[Any]] = []
    for place, arrays in enumerate(splits):
        if isinstance(model, Clip):
            cuts.append(ImageCut(arrays, place, plan.scoring.batch_size, pinned))
        else:
            budget = plan.scoring.batch_size or token_budget(device)
            cuts.append(TextCut(arrays, place, budget, model.pad, pinned=pinned))
    batches = [sent(cut.read(number), device) for cut in cuts for number in range(len(cut))]
    return Stage(plan, shop, adapter, cuts, batches)


def sent(batch: Any, device: torch.device) -> Any:
    """A batch on a device."""
    return batch._make(
        part.to(device, non_blocking=True) if isinstance(part, Tensor) else part for part in batch
    )


def features(model: Any, batch: Batch | TextBatch) -> Tensor:
    """What heads read of a batch, [B, D], as the evaluation computes it."""
    found: Tensor
    if isinstance(batch, TextBatch):
        found = model(batch.tokens, batch.lengths, lean=True)
    else:
        found = model(batch.images)
    return found


def other_predictions(stage: Stage, found: Sequence[Tensor], result: EvaluationResult) -> int:
    """How many items the bare loop's features put into another class than the evaluation did."""
    device, suite = stage.shop.model.device, stage.plan.suite
    own = stage.shop.task_heads
    heads = stage.shop.class_heads(device).tasks if own is None else own
    starts = [sum(cut.items for cut in stage.cuts[:place]) for place in range(len(stage.cuts))]
    predictions = torch.empty(stage.items, dtype=torch.int64)
    for batch, some in zip(stage.batches, found, strict=True):
        scores = class_scores(some[None].float(), heads[batch.task].float().to(device))
        if own is not None:
            mask = suite.text_tasks[batch.task].mask.to(device)
            scores = scores.masked_fill(mask, torch.finfo(scores.dtype).min)
        predictions[(batch.items + starts[batch.task]).cpu()] = top1(scores).cpu()
    return int((predictions.numpy() != result.predictions["prediction"].to_numpy(dtype=int)).sum())
