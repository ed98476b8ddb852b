"""The paper's vision benchmark on a loopback hub: every repository in its real layout, with a few images.

The bases are random, so accuracies mean nothing; what is rehearsed is everything else.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from experiments._cli import CONF
from knots.suites.hf_datasets import no_bars
from tests.hub import Hub, files_of
from tests.miniatures import LAYERS, WIDTH, tiny_clip

TASKS = ("stanford_cars", "dtd", "eurosat", "gtsrb", "mnist", "resisc45", "sun397", "svhn")
ROWS = {"train": 10, "test": 10}
"""Rows of the data sets' own splits."""

PATTERN = {
    "vit_b_32": "hoffman-lab/KnOTS-ViT-B-32_lora_R16_{}",
    "vit_l_14": "hoffman-lab/KnOTS-ViT-L-14_lora_R16_{}",
}
BASE = "openai/clip-vit-base-patch32"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


def task_config(task: str) -> dict:
    """What the YAML of a task says, with what all tasks share."""
    shared = yaml.safe_load((CONF / "task" / "vision8" / "_images.yaml").read_text())
    own = yaml.safe_load((CONF / "task" / "vision8" / f"{task}.yaml").read_text())
    source = {**shared["source"], **own["source"]}
    source["validation"] = {**shared["source"]["validation"], **own["source"].get("validation", {})}
    return {**own, "source": source}


def sizes(task: str, rows: Mapping[str, int] = ROWS) -> dict[str, int]:
    """How many items of the rehearsal's data sets each of the task's splits has."""
    held_out = task_config(task)["source"]["validation"]
    taken = int(rows[held_out["part_of"]] * held_out["share"])
    return {
        "validation": taken,
        **{split: n - taken * (split == held_out["part_of"]) for split, n in rows.items()},
    }


def size_overrides(rows: Mapping[str, int] = ROWS) -> list[str]:
    """What the command line must say of data sets that are this small."""
    return [
        f"suite.tasks.{task}.sizes.{split}={n}" for task in TASKS for split, n in sizes(task, rows).items()
    ]


def vision_shelf(folder: Path) -> Hub:
    """A hub that answers no one and holds what the benchmark needs: a tiny base, adapters, data."""
    shelf = Hub()
    shelf.stop()
    shelf.models[BASE] = files_of(tiny_clip(folder / "base"))
    serve_adapters(shelf, folder / "adapters", "vit_b_32", WIDTH, LAYERS, rank=2)
    serve_data(shelf, folder / "data")
    return shelf


def serve_data(hub: Hub, folder: Path, rows: Mapping[str, int] = ROWS) -> None:
    """Data sets under the ids that the tasks name: parquet, class names, a README, and a split too many."""
    for number, task in enumerate(TASKS):
        source = task_config(task)["source"]
        config, classes = source["config"] or "default", len(task_config(task)["classes"])
        below = f"{source['config']}/" if source["config"] else "data/"
        files = {}
        for split, n in {**rows, "contrast": 3}.items():
            path = folder / task / f"{split}.parquet"
            write_parquet(path, n, classes, seed=10 * number + len(split))
            files[f"{below}{split}-00000-of-00001.parquet"] = path
        splits = [{"split": split, "path": f"{below}{split}-*"} for split in (*rows, "contrast")]
        card = {"configs": [{"config_name": config, "data_files": splits}]}
        files["README.md"] = f"---\n{yaml.safe_dump(card)}---\n".encode()
        hub.datasets[source["path"]] = files


def write_parquet(path: Path, n: int, classes: int, seed: int) -> None:
    """Pictures of odd sizes as JPEG and PNG, in colour and grey, with labels that the task has."""
    rng = np.random.default_rng(seed)
    rows = []
    for item in range(n):
        height, width = (int(side) for side in rng.integers(28, 70, 2))
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        picture, content = Image.fromarray(pixels), io.BytesIO()
        picture = picture.convert("L") if item % 3 == 2 else picture
        picture.save(content, "JPEG" if item % 2 else "PNG")
        rows.append({"bytes": content.getvalue(), "path": None})
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=[f"class {i}" for i in range(classes)])
    )
    labels = rng.integers(0, classes, n).tolist()
    path.parent.mkdir(parents=True, exist_ok=True)
    with no_bars():
        datasets.Dataset.from_dict({"image": rows, "label": labels}, features=features).to_parquet(path)


def serve_adapters(hub: Hub, folder: Path, model: str, width: int, layers: int, rank: int = 16) -> None:
    """The eight adapters as the hub has them: pickled, null base, keys without a prefix."""
    for seed, task in enumerate(TASKS):
        place = pickled_adapter(folder / task, adapter_tensors(seed, width, layers, rank), rank, PROJECTIONS)
        hub.models[PATTERN[model].format(task)] = files_of(place)


def pickled_adapter(
    place: Path,
    tensors: Mapping[str, Tensor],
    rank: int,
    projections: Sequence[str],
    base: str | None = None,
    task_type: str | None = None,
) -> Path:
    """An adapter as old versions of PEFT wrote it, in a new folder."""
    place.mkdir(parents=True)
    torch.save(dict(tensors), place / "adapter_model.bin")
    config = {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.1,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": list(projections),
        "task_type": task_type,
    }
    (place / "adapter_config.json").write_text(json.dumps(config))
    return place


def adapter_tensors(seed: int, width: int, layers: int, rank: int, prefix: str = "") -> dict[str, Tensor]:
    """Random factors, all from one shared A as the reference's, under the keys of the hub's files."""
    shared, own = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(layers):
        for name in PROJECTIONS:
            key = f"base_model.model.{prefix}encoder.layers.{layer}.self_attn.{name}"
            down = torch.randn(rank, width, generator=shared) / width**0.5
            drift = torch.randn(rank, width, generator=own) / width**0.5
            tensors[f"{key}.lora_A.weight"] = down + 0.1 * drift
            tensors[f"{key}.lora_B.weight"] = 0.05 * torch.randn(width, rank, generator=own)
    return tensors
