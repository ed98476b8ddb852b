"""Time of a merge from adapter folders to an adapter folder, on random adapters of real shapes.

    uv run benchmarks/merging.py                         eight rank-16 adapters of ViT-B/32, knots_ties
    uv run benchmarks/merging.py method=core_tsv rank=64 tasks=4 width=1024 modules=96

Loading, merging and saving are timed apart; the first repeat warms up and is left out.
"""

from __future__ import annotations

import json
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file

import knots

DEFAULTS = {
    "method": "knots_ties",
    "options": {"density": 0.2},
    "tasks": 8,
    "rank": 16,
    "width": 768,
    "modules": 48,
    "scale": 0.6,
    "device": "cpu",
    "repeats": 3,
}
STEPS = ("load", "merge", "save")


def write_adapters(root: Path, cfg: DictConfig) -> list[Path]:
    """PEFT folders with normally distributed factors, four modules a layer."""
    generator = torch.Generator().manual_seed(0)
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    folders = []
    for task in range(cfg.tasks):
        tensors = {}
        for module in range(cfg.modules):
            key = f"base_model.model.encoder.layers.{module // 4}.self_attn.{projections[module % 4]}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(cfg.rank, cfg.width, generator=generator) * 0.02
            tensors[f"{key}.lora_B.weight"] = torch.randn(cfg.width, cfg.rank, generator=generator) * 0.02
        folder = root / f"task_{task}"
        folder.mkdir()
        save_file(tensors, folder / "adapter_model.safetensors")
        config = {
            "peft_type": "LORA",
            "r": cfg.rank,
            "lora_alpha": cfg.rank,
            "target_modules": list(projections),
        }
        (folder / "adapter_config.json").write_text(json.dumps(config))
        folders.append(folder)
    return folders


def timed(step: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds of a step, with the device idle before and after."""
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    synchronize()
    start = time.perf_counter()
    result = step()
    synchronize()
    return time.perf_counter() - start, result


def run_once(folders: list[Path], out: Path, cfg: DictConfig) -> dict[str, float]:
    """Seconds of each step of one merge from folders to a folder."""
    options = {**knots.METHODS[cfg.method], **cfg.options, "scale": cfg.scale, "device": cfg.device}
    load, adapters = timed(lambda: [knots.load_adapter(folder) for folder in folders], cfg.device)
    merge, merged = timed(lambda: knots.merge(adapters, **options), cfg.device)
    save, _ = timed(lambda: knots.save_adapter(merged, out), cfg.device)
    return {"load": load, "merge": merge, "save": save}


def main() -> None:
    """Print the medians and what they were measured on."""
    cfg = OmegaConf.merge(DEFAULTS, OmegaConf.from_cli(sys.argv[1:]))
    assert isinstance(cfg, DictConfig)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folders = write_adapters(root, cfg)
        runs = [run_once(folders, root / f"out_{i}", cfg) for i in range(cfg.repeats + 1)][1:]
    medians = {step: statistics.median(run[step] for run in runs) for step in STEPS}
    machine = (
        torch.cuda.get_device_name() if cfg.device != "cpu" else platform.processor() or platform.machine()
    )
    print(f"{cfg.method} {dict(cfg.options)}: {cfg.tasks} adapters, rank {cfg.rank}, {cfg.modules} modules")
    print(f"on {machine}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for step, seconds in (*medians.items(), ("total", sum(medians.values()))):
        print(f"{step:>6} {seconds:8.3f} s")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
