"""The paper's language benchmark on a loopback hub: every repository in its real layout, with a few pairs.

The base is random, so accuracies mean nothing; what is rehearsed is everything else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
import yaml
from torch import Tensor

from experiments._cli import CONF
from knots.suites.hf_datasets import no_bars
from tests.hub import Hub, files_of
from tests.language import CLASSES, WORDS

TASKS = ("snli", "mnli", "sick", "qnli", "rte", "scitail")
ROWS = {"train": 12, "validation": 10, "test": 10}
"""Rows of the data sets' own splits."""

BASE = "meta-llama/Meta-Llama-3-8B"
PATTERN = "hoffman-lab/KnOTS-Llama3_8B_lora_R16_{}"
LAYOUTS = {
    "snli": "plain_text/{}-00000-of-00001.parquet",
    "mnli": "{}.jsonl",
    "sick": "default/{}/0000.parquet",
    "qnli": "{}.jsonl",
    "rte": "{}.jsonl",
    "scitail": "tsv_format/{}-00000-of-00001.parquet",
}
"""How the data sets call the files of a split on the hub."""

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


def task_config(task: str) -> dict:
    """What the YAML of a task says, with what all tasks share."""
    shared = yaml.safe_load((CONF / "task" / "nli6" / "_pairs.yaml").read_text())
    own = yaml.safe_load((CONF / "task" / "nli6" / f"{task}.yaml").read_text())
    return {**shared, **own, "source": {**shared["source"], **own["source"]}}


def sizes(task: str, rows: Mapping[str, int] = ROWS) -> dict[str, int]:
    """How many items of the rehearsal's data sets each of the task's splits has."""
    source = task_config(task)["source"]
    held_out = source["validation"]
    if held_out is None:
        return dict(rows)
    whole = rows[source["splits"]["test"]]
    taken = -int(-whole * held_out["share"] // 1)  # rounded up, as `datasets` does
    return {"train": rows["train"], "validation": taken, "test": whole - taken}


def size_overrides(rows: Mapping[str, int] = ROWS) -> list[str]:
    """What the command line must say of data sets that are this small."""
    return [
        f"suite.tasks.{task}.sizes.{split}={n}" for task in TASKS for split, n in sizes(task, rows).items()
    ]


def serve_data(hub: Hub, folder: Path, rows: Mapping[str, int] = ROWS) -> None:
    """Data sets under the ids that the tasks name, in the form and under the names of their real files."""
    for number, task in enumerate(TASKS):
        source = task_config(task)["source"]
        files: dict[str, bytes | Path] = {}
        for split, n in rows.items():
            name = LAYOUTS[task].format(split)
            # What GLUE calls test has no labels, and is never read.
            hidden = split == "test" and source["splits"]["test"] != "test"
            pairs = some_pairs(n, source, seed=10 * number + len(split), hidden=hidden)
            files[name] = write_pairs(folder / task / name, pairs)
        config = source["config"] or ("plain_text" if task == "snli" else None)
        if config is not None:
            splits = [{"split": s, "path": f"{config}/{s}-*"} for s in rows]
            card = {"configs": [{"config_name": config, "data_files": splits}]}
            files["README.md"] = f"---\n{yaml.safe_dump(card)}---\n".encode()
        revision = f"@{source['revision']}" if source["revision"] else ""
        hub.datasets[source["path"] + revision] = files
        if revision:  # the script that stands on the main branch
            hub.datasets[source["path"]] = {f"{task}.py": b"raise SystemExit", "README.md": b""}


def some_pairs(n: int, source: Mapping, seed: int, hidden: bool = False) -> list[dict]:
    """Rows of short sentences; labels take turns in the data set's own spelling."""
    rng = np.random.default_rng(seed)
    labels: Sequence[int | str] = [label for label, name in source["labels"].items() if name is not None]
    sentences = [" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(2 * n)]
    return [
        {
            source["first"]: sentences[item],
            source["second"]: sentences[n + item],
            source["label"]: -1 if hidden else labels[item % len(labels)],
        }
        for item in range(n)
    ]


def write_pairs(path: Path, rows: Sequence[Mapping]) -> Path:
    """JSON lines or parquet, as the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path
    with no_bars():
        datasets.Dataset.from_list([dict(row) for row in rows]).to_parquet(path)
    return path


def serve_adapters(hub: Hub, folder: Path, width: int, kv_width: int, layers: int, rank: int = 16) -> None:
    """The six adapters as the hub has them, pickled and with their heads, and the one that is the base."""
    for seed, task in enumerate((*TASKS, "pretrained_model")):
        place = folder / task
        place.mkdir(parents=True)
        tensors = adapter_tensors(seed, width, kv_width, layers, rank)
        if task == "pretrained_model":
            tensors = {k: torch.zeros_like(t) if "lora_B" in k else t for k, t in tensors.items()}
        torch.save(tensors, place / "adapter_model.bin")
        config = {
            "base_model_name_or_path": BASE,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": rank,
            "lora_dropout": 0.1,
            "modules_to_save": None,
            "peft_type": "LORA",
            "r": rank,
            "target_modules": list(PROJECTIONS),
            "task_type": "SEQ_CLS",
        }
        (place / "adapter_config.json").write_text(json.dumps(config))
        hub.models[PATTERN.format(task)] = files_of(place)


def adapter_tensors(seed: int, width: int, kv_width: int, layers: int, rank: int) -> dict[str, Tensor]:
    """Random factors, all from one shared A, and a head, under the keys of the hub's files."""
    shared, own = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(layers):
        for name in PROJECTIONS:
            rows = kv_width if name in ("k_proj", "v_proj") else width
            key = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            down = torch.randn(rank, width, generator=shared) / width**0.5
            drift = torch.randn(rank, width, generator=own) / width**0.5
            tensors[f"{key}.lora_A.weight"] = down + 0.1 * drift
            tensors[f"{key}.lora_B.weight"] = 0.05 * torch.randn(rows, rank, generator=own)
    tensors["base_model.model.score.weight"] = torch.randn(len(CLASSES), width, generator=own) / width**0.5
    return tensors
