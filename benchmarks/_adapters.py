"""Random adapters of the shapes of real models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import knots
from knots.updates import LowRank


@dataclass(frozen=True)
class Shape:
    """Adapters of one model.

    Attributes:
        tasks: T.
        rank: R of every update.
        width: sides of the modules, in features.
        modules: how many there are.
        layers: what they stand in.
        out: projection -> its output side, as a multiple of `width`; the modules take turns.
        classes: rows of a task's head, 0 for none.
    """

    tasks: int
    rank: int
    width: int
    modules: int
    layers: str
    out: Mapping[str, float]
    classes: int = 0

    @property
    def names(self) -> Iterator[tuple[str, str]]:
        """Every module's name with its projection."""
        for number in range(self.modules):
            projection = list(self.out)[number % len(self.out)]
            yield f"{self.layers}.{number // len(self.out)}.self_attn.{projection}", projection

    @property
    def sides(self) -> list[tuple[int, int]]:
        """(O, I) of every module."""
        return [(int(self.width * self.out[projection]), self.width) for _, projection in self.names]

    @property
    def numbers(self) -> int:
        """Numbers of all adapters together."""
        return self.tasks * self.rank * sum(o + i for o, i in self.sides)


VISION = {"q_proj": 1.0, "k_proj": 1.0, "v_proj": 1.0, "out_proj": 1.0}
LLAMA = {"q_proj": 1.0, "k_proj": 0.25, "v_proj": 0.25, "o_proj": 1.0}
SHAPES = {
    "vit_b_32": Shape(8, 16, 768, 48, "encoder.layers", VISION),
    "vit_l_14": Shape(8, 16, 1024, 96, "encoder.layers", VISION),
    "llama3_8b": Shape(6, 16, 4096, 128, "model.layers", LLAMA, classes=3),
}


def factors(shape: Shape, task: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Module -> B [O, R] and A [R, I] of a task; all tasks began with one A, which drifted a little."""
    shared, own = torch.Generator().manual_seed(99), torch.Generator().manual_seed(task)
    found = {}
    for (name, _), (out_features, in_features) in zip(shape.names, shape.sides, strict=True):
        down = torch.randn(shape.rank, in_features, generator=shared)
        drift = torch.randn(shape.rank, in_features, generator=own)
        up = torch.randn(out_features, shape.rank, generator=own)
        found[name] = 0.05 * up, (down + 0.1 * drift) / in_features**0.5
    return found


def random_adapters(shape: Shape) -> list[knots.Adapter]:
    """The adapters of all tasks, in memory."""
    return [
        knots.Adapter(f"task_{task}", {m: LowRank(b, a) for m, (b, a) in factors(shape, task).items()})
        for task in range(shape.tasks)
    ]


def write_adapters(shape: Shape, root: Path) -> list[Path]:
    """Folders as the hub has them, with pickled weights in float32."""
    folders = [root / f"task_{task}" for task in range(shape.tasks)]
    for task, folder in enumerate(folders):
        folder.mkdir(parents=True)
        tensors = {}
        for module, (b, a) in factors(shape, task).items():
            tensors[f"base_model.model.{module}.lora_A.weight"] = a
            tensors[f"base_model.model.{module}.lora_B.weight"] = b
        if shape.classes:
            tensors["base_model.model.score.weight"] = torch.randn(shape.classes, shape.width)
        torch.save(tensors, folder / "adapter_model.bin")
        config = {
            "peft_type": "LORA",
            "r": shape.rank,
            "lora_alpha": shape.rank,
            "target_modules": list(shape.out),
            "task_type": "SEQ_CLS" if shape.classes else None,
        }
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folders
