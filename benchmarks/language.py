"""Pairs of sentences scored in batches by length, against the reference's batches of two padded pairs.

    uv run benchmarks/language.py                     the miniature on its own sentences; a wider Llama
    uv run benchmarks/language.py shapes=[llama3_8b] device=cuda dtype=bfloat16 pairs=4000

The miniature is scored on the six tasks of `mini_nli6`, whose pairs have at most 20 tokens; other shapes have
random weights and random pairs of 10 to 30 tokens. Four ways to score the same pairs: `evaluate`, as runs
call it; the reference's loop (torch's DataLoader over tokenized rows, two a batch in the order of the data,
padded by the tokenizer, with a mask, through the classifier of transformers as it comes); the same with one
pair a batch; and a plain forward pass of the backbone over rectangles of as many tokens, without heads or
data, which is what the hardware allows. Ways take turns, so that ratios are of one time on one machine.
"""

from __future__ import annotations

import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForSequenceClassification

from benchmarks._measuring import RESULTS, chosen, machine_facts
from knots.evaluation import ZeroShot, evaluate
from knots.evaluation.texts import token_budget
from knots.models.bases import Base
from knots.models.classifier import Classifier, ClassifierSpec, classifier_reading, load_classifier
from knots.pipelines.trainers import quiet_trainer
from knots.pretraining.llama import build_reader
from knots.suites.data import load_split
from knots.suites.mini_nli import TASKS
from knots.suites.tasks import Suite, TextTask
from knots.suites.texts import TextArrays, TextReading

DEFAULTS = {
    "shapes": ["mini_llama", "wide"],
    "pairs": 3000,
    "tokens": None,
    "device": "cpu",
    "dtype": "float32",
    "repeats": 3,
    "results": "language.json",
}
CLASSES = ("entailment", "neutral", "contradiction")
PARTS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "vocab_size"),
)
SHAPES = {
    "wide": dict(zip(PARTS, (256, 704, 4, 8, 2, 512), strict=True)),
    "llama3_8b": dict(zip(PARTS, (4096, 14336, 32, 32, 8, 128256), strict=True)),
}
SHORTEST, LONGEST = 10, 30
WORDS = 500


def random_model(shape: str, cfg: DictConfig) -> Any:
    """A Llama with random weights, made where it is used."""
    config = LlamaConfig(
        **SHAPES[shape], max_position_embeddings=512, pad_token_id=0, num_labels=len(CLASSES)
    )
    torch.manual_seed(0)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, cfg.dtype))
    try:
        with torch.device(cfg.device):
            return LlamaForSequenceClassification(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(previous)


def write_pairs(folder: Path, count: int) -> TextTask:
    """Random sentences in a file, and the task that reads it."""
    rng = np.random.default_rng(0)

    def sentence(words: int) -> str:
        return " ".join(f"w{number}" for number in rng.integers(0, WORDS, words))

    # Two tokens of a pair are those before its sentences.
    lengths = rng.integers(SHORTEST, LONGEST + 1, count) - 2
    firsts = [sentence(int(length) - int(length) // 2) for length in lengths]
    seconds = [sentence(int(length) // 2) for length in lengths]
    labels = rng.integers(0, len(CLASSES), count)
    folder.mkdir()
    pd.DataFrame({"a": firsts, "b": seconds, "label": labels}).to_parquet(folder / "test.parquet")
    columns = {"first": "a", "second": "b", "labels": dict(enumerate(CLASSES))}
    source = {"kind": "pairs", "path": str(folder), **columns, "splits": {"test": "test"}}
    return TextTask("random", CLASSES, {"test": count}, source, max_length=2 * LONGEST)


@dataclass(frozen=True)
class Stage:
    """A model, the tasks that it is scored on, and how their sentences are read."""

    model: Any
    tasks: tuple[TextTask, ...]
    reading: TextReading


def stage(shape: str, folder: Path, cfg: DictConfig) -> Stage:
    """The shipped miniature with its six tasks, or a random model with one."""
    if shape != "mini_llama":
        reading = TextReading(
            build_reader([f"w{number}" for number in range(WORDS)]), {"tokenizer": "benchmark"}
        )
        return Stage(random_model(shape, cfg), (write_pairs(folder / "pairs", cfg.pairs),), reading)
    dtype = getattr(torch, cfg.dtype)
    classifier = load_classifier(ClassifierSpec("mini_llama", "asset:mini_llama/base"), dtype=dtype)
    classifier.model.score = torch.nn.Linear(classifier.width, len(CLASSES), bias=False, dtype=dtype)
    source = {"kind": "mini_nli", "seed": 0}
    each = {"test": cfg.pairs // len(TASKS)}
    tasks = tuple(TextTask(name, CLASSES, each, source, max_length=LONGEST) for name in TASKS)
    return Stage(classifier.model.to(cfg.device), tasks, classifier_reading(classifier.base))


class Bench:
    """The ways to score the same pairs; each returns predictions in the order of the data."""

    def __init__(self, shape: str, folder: Path, cfg: DictConfig) -> None:
        self.cfg, self.folder = cfg, folder
        self.stage = stage(shape, folder, cfg)
        self.model = self.stage.model
        self.classifier = Classifier(self.model, Base(folder, {}), pad=0)
        self.head = self.model.score.weight.detach().float()
        splits = [load_split(t, "test", folder / "cache", self.stage.reading) for t in self.stage.tasks]
        starts = np.cumsum([0] + [len(split.tokens) for split in splits])
        self.arrays = TextArrays(
            np.concatenate([split.tokens for split in splits]),
            np.concatenate(
                [split.starts[:-1] + at for split, at in zip(splits, starts, strict=False)] + [starts[-1:]]
            ),
            np.concatenate([split.labels for split in splits]),
        )
        items = [self.arrays.padded([item], 0)[0][0].tolist() for item in range(len(self.arrays))]
        masks = [[1] * len(tokens) for tokens in items]
        self.rows: Any = datasets.Dataset.from_dict({"input_ids": items, "attention_mask": masks})
        self.seconds = 0.0

    def by_length(self) -> list[int]:
        """`evaluate`; its own clock starts with the first batch."""
        accelerator = "gpu" if self.cfg.device.startswith("cuda") else "cpu"
        result = evaluate(
            self.classifier,
            Suite("benchmark", "language", self.stage.tasks),
            ZeroShot(),
            mode="per_task",
            protocol="float32",
            split="test",
            cache_dir=self.folder / "cache",
            batch_size=self.cfg.tokens,
            trainer=quiet_trainer({"accelerator": accelerator, "devices": 1}),
            heads=[self.head] * len(self.stage.tasks),
            reading=self.stage.reading,
        )
        assert result.speed is not None
        self.seconds = result.speed.seconds
        return [int(prediction) for prediction in result.predictions["prediction"]]

    @torch.inference_mode()
    def in_batches_of(self, size: int) -> list[int]:
        """Rows of a table in their order, padded by the tokenizer, through transformers' own classifier."""
        predictions = []
        self.classifier.suit(None)  # as it comes
        pad = functools.partial(self.stage.reading.tokenizer.pad, padding="longest", return_tensors="pt")
        for batch in DataLoader(self.rows, batch_size=size, collate_fn=pad):
            inputs = {key: batch[key].to(self.cfg.device) for key in ("input_ids", "attention_mask")}
            predictions += self.model(**inputs).logits.argmax(dim=1).tolist()
        return predictions

    @torch.inference_mode()
    def plain_forward(self) -> list[int]:
        """The backbone over rectangles without padding, as many tokens in all."""
        self.classifier.suit(torch.device(self.cfg.device))
        mean = len(self.arrays.tokens) // len(self.arrays)
        left = len(self.arrays.tokens)
        budget = self.cfg.tokens or token_budget(torch.device(self.cfg.device))
        while left > 0:
            rows = max(1, min(budget, left) // mean)
            tokens = torch.randint(2, self.model.config.vocab_size, (rows, mean), device=self.cfg.device)
            self.model.base_model(input_ids=tokens, use_cache=False)
            left -= rows * mean
        return []

    def timed(self, way: Callable[[], list[int]]) -> tuple[float, list[int]]:
        """Seconds and predictions of one pass."""
        started = time.perf_counter()
        predictions = way()
        if self.cfg.device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        return (self.seconds if way == self.by_length else seconds), predictions


def measure(shape: str, folder: Path, cfg: DictConfig) -> dict[str, Any]:
    """Medians by way: tokens a second, and how many predictions differ from those of one pair at a time."""
    bench = Bench(shape, folder, cfg)
    ways = {
        "by length (evaluate)": bench.by_length,
        "two padded pairs (reference)": lambda: bench.in_batches_of(2),
        "one pair": lambda: bench.in_batches_of(1),
        "plain forward pass": bench.plain_forward,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    predictions: dict[str, list[int]] = {}
    for repeat in range(cfg.repeats + 1):
        for name, way in ways.items():
            passed, predictions[name] = bench.timed(way)
            if repeat:  # the first pass warms up
                seconds[name].append(passed)
    tokens = len(bench.arrays.tokens)
    reference = statistics.median(seconds["two padded pairs (reference)"])
    return {
        name: {
            "tokens_per_second": tokens / statistics.median(passed),
            "ratio_to_reference": reference / statistics.median(passed),
            "other_predictions": sum(
                a != b for a, b in zip(predictions[name], predictions["one pair"], strict=False)
            ),
        }
        for name, passed in seconds.items()
    }


def main() -> None:
    """Print the medians and their ratios, write the JSON."""
    cfg = chosen(DEFAULTS)
    found = {}
    for shape in cfg.shapes:
        with tempfile.TemporaryDirectory() as folder:
            found[shape] = measure(shape, Path(folder), cfg)
        for name, numbers in found[shape].items():
            print(
                f"{shape:<10} {name:<30}{numbers['tokens_per_second']:12,.0f} tokens/s "
                f"{numbers['ratio_to_reference']:7.2f} x   {numbers['other_predictions']} other predictions"
            )
    RESULTS.mkdir(exist_ok=True)
    content = {
        **machine_facts(),
        "threads": torch.get_num_threads(),
        "options": OmegaConf.to_container(cfg),
        "medians": found,
    }
    (RESULTS / cfg.results).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
