"""Images a second of the data path alone: from a mapped file to batches on the device.

    uv run benchmarks/data.py                            4,000 images of 224 x 224 pixels
    uv run benchmarks/data.py images=20000 batch_size=512 device=cuda

Three ways to read the same file: with the thread that reads ahead, without it, and by torch's DataLoader with
one worker process. Each is timed alone, and beside scoring that takes about as long as reading: there a
thread can hide the reading, and the share of the time spent waiting says how much of it is left. Ways take
turns, so that ratios are of one time on one machine; a pass before them fills the file cache.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks._measuring import chosen, machine_facts
from knots.evaluation.batches import AHEAD, Batch, ImageCut, ShardedBatches
from knots.prefetching import Waiting
from knots.suites.data import ImageArrays

RESULTS = Path(__file__).with_name("results") / "data.json"
DEFAULTS = {"images": 4000, "side": 224, "batch_size": 256, "device": "cpu", "repeats": 5}


def mapped_split(folder: Path, cfg: DictConfig) -> ImageArrays:
    """Random images in a file that is mapped read-only, as a cached split is."""
    rng = np.random.default_rng(0)
    shape = (cfg.images, cfg.side, cfg.side, 3)
    written = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    for at in range(0, cfg.images, cfg.batch_size):
        written[at : at + cfg.batch_size] = rng.integers(
            0, 256, written[at : at + cfg.batch_size].shape, np.uint8
        )
    written.flush()
    return ImageArrays(np.load(folder / "images.npy", mmap_mode="r"), np.zeros(cfg.images, np.int64))


def loaders(arrays: ImageArrays, cfg: DictConfig) -> dict[str, ShardedBatches[Batch] | DataLoader[Any]]:
    """The ways to read, by name."""
    pinned = cfg.device.startswith("cuda")
    plain = ShardedBatches(ImageCut(arrays, 0, cfg.batch_size, pinned), ahead=0)
    pageable = ImageCut(arrays, 0, cfg.batch_size)
    numbers = range(len(plain))
    # Without a batch size DataLoader hands every "sample", here a batch's number, to `collate_fn` alone.
    worker = DataLoader(
        numbers,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=1,
        prefetch_factor=AHEAD,
        pin_memory=pinned,
        collate_fn=pageable.read,
    )
    return {
        "read ahead": dataclasses.replace(plain, ahead=AHEAD),
        "one by one": plain,
        "DataLoader, one worker": worker,
    }


def sent(batch: Batch, device: str) -> Tensor:
    return batch.images.to(device, non_blocking=True)


def timed(batches: Iterable[Batch], cfg: DictConfig, scoring: float) -> dict[str, float]:
    """One pass: images a second, and the share of the time in which no batch was there.

    `scoring`: seconds that stand in for the work on a batch. The processor is free meanwhile, as it is while
    a GPU computes.
    """
    waiting, started = Waiting(), time.perf_counter()
    asked = started
    for batch in batches:
        waiting.seconds += time.perf_counter() - asked
        sent(batch, cfg.device)
        time.sleep(scoring)
        asked = time.perf_counter()
    if cfg.device.startswith("cuda"):
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return {"images_per_second": cfg.images / seconds, "waiting_share": waiting.seconds / seconds}


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def measure(arrays: ImageArrays, cfg: DictConfig) -> dict[str, dict[str, dict[str, float]]]:
    """Medians by way of reading: alone, and beside scoring."""
    ways = loaders(arrays, cfg)
    batches = len(ways["one by one"])
    for _ in ways["one by one"]:
        pass
    rates = [timed(ways["one by one"], cfg, 0.0)["images_per_second"] for _ in range(3)]
    scoring = cfg.images / statistics.median(rates) / batches
    found = {}
    for beside, seconds in (("alone", 0.0), ("beside scoring", scoring)):
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for _ in range(cfg.repeats):
            for name, way in ways.items():
                runs[name].append(timed(way, cfg, seconds))
        found[beside] = {name: medians(some) for name, some in runs.items()}
    return found


def main() -> None:
    """Print the medians and their ratios, write the JSON."""
    cfg = chosen(DEFAULTS)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(mapped_split(Path(folder), cfg), cfg)
    for beside, ways in found.items():
        slowest = ways["one by one"]["images_per_second"]
        for name, numbers in ways.items():
            numbers["ratio"] = numbers["images_per_second"] / slowest
            print(
                f"{beside:<16}{name:<24}{numbers['images_per_second']:10,.0f} images/s "
                f"{numbers['ratio']:6.2f} x {100 * numbers['waiting_share']:5.0f} % waiting"
            )
    RESULTS.parent.mkdir(exist_ok=True)
    content = {**machine_facts(), "options": OmegaConf.to_container(cfg), "medians": found}
    RESULTS.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
