"""mergekit's own commands, on full checkpoints of the touched weights, and on `base+adapter`.

`mergekit-pytorch` merges any safetensors files: each task's holds the touched weights and nothing else.
`mergekit-yaml` takes adapters, which it folds into full checkpoints itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from _peer import Case, Update, Work, main, read_base, read_factors
from mergekit.scripts.merge_raw_pytorch import main as mergekit_pytorch
from mergekit.scripts.run_yaml import main as mergekit_yaml
from safetensors.torch import load_file, save_file

METHODS: dict[str, Callable[[Work], dict[str, Any]]] = {
    "task_arithmetic": lambda _: {"normalize": False},
    "ties": lambda work: {"density": work.density, "normalize": True},
    # Its default for DARE is a sum; a mean is what TIES takes, and the others here.
    "dare_ties": lambda work: {"density": 1 - work.drop, "normalize": True},
}


def fold(work: Work) -> Path:
    """Full checkpoints: W + B A of every task, and the base's own weights."""
    folder = Path(work.scratch) / "checkpoints"
    folder.mkdir()
    for task in work.adapters:
        factors = read_factors(task)
        base = read_base(work, factors)
        whole = {f"{name}.weight": base[name] + b @ a for name, (b, a) in factors.items()}
        save_file(whole, folder / f"{Path(task).name}.safetensors")
    save_file({f"{name}.weight": weight for name, weight in base.items()}, folder / "base.safetensors")
    return folder


def config(work: Work, method: str, base: str, models: list[str]) -> str:
    """Path of mergekit's configuration; JSON is YAML."""
    content = {
        "merge_method": method,
        "base_model": base,
        "models": [{"model": model, "parameters": {"weight": 1.0}} for model in models],
        "parameters": METHODS[method](work),
        "dtype": "float32",
    }
    path = Path(work.scratch) / "config.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def run(command: click.Command, work: Work, path: str, *words: str) -> Path:
    out = Path(work.scratch) / "merged"
    command.main([path, str(out), "--quiet", "--random-seed", str(work.seed), *words], standalone_mode=False)
    return out


def clear(work: Work, _: Any) -> None:
    shutil.rmtree(Path(work.scratch) / "merged")


def from_checkpoints(method: str) -> Case:
    def merge(work: Work, folder: Path) -> Path:
        models = [str(folder / f"{Path(task).name}.safetensors") for task in work.adapters]
        return run(mergekit_pytorch, work, config(work, method, str(folder / "base.safetensors"), models))

    def read(folder: Path, out: Path) -> Iterator[tuple[str, Update]]:
        base = load_file(folder / "base.safetensors")
        for file in sorted(out.glob("*.safetensors")):
            for name, weight in load_file(file).items():
                yield name.removesuffix(".weight"), weight - base[name]

    return Case(fold, merge, read, clear, start="disk", end="disk")


def from_adapters(method: str) -> Case:
    """What `mergekit-yaml` has for LoRA: `base+adapter` as a model."""

    def merge(work: Work, _: None) -> Path:
        models = [f"{work.base}+{task}" for task in work.adapters]
        folded = Path(work.scratch) / "folded"
        shutil.rmtree(folded, ignore_errors=True)
        words = ("--lora-merge-cache", str(folded), "--no-copy-tokenizer")
        return run(mergekit_yaml, work, config(work, method, work.base, models), *words)

    def prepare(work: Work) -> dict[str, Any]:
        return read_base(work, read_factors(work.adapters[0]))

    def read(base: dict[str, Any], out: Path) -> Iterator[tuple[str, Update]]:
        for file in sorted(out.glob("*.safetensors")):
            for name, weight in load_file(file).items():
                module = name.removesuffix(".weight")
                if module in base:
                    yield module, weight - base[module]

    return Case(prepare, merge, read, clear, start="disk", end="disk")


CASES = {
    **{method: from_checkpoints(method) for method in METHODS},
    "ties of base+adapter": from_adapters("ties"),
}

if __name__ == "__main__":
    main(CASES, ["mergekit", "transformers"])
