"""How time and memory of a merge grow with tasks, rank, modules and width, and where the curves bend.

    uv run benchmarks/scaling.py
    uv run benchmarks/scaling.py axes=[tasks] space=full

Random adapters; one of the four is varied, the others are those of the options (eight rank-16 adapters of
twelve modules as wide as those of ViT-B/32). Every point is measured in processes of its own, as `merging.py`
does.
Writes a JSON and a figure.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from omegaconf import OmegaConf

from benchmarks._adapters import SHAPES, Shape, write_adapters
from benchmarks._measuring import HERE, RESULTS, chosen, in_new_process, one_of, write_results
from benchmarks.merging import DEFAULTS as OF_A_MERGE
from benchmarks.merging import coordinate_count, measure_memory, time_steps
from knots.rules import RULES
from knots.spaces import SPACES

POINTS = {
    "tasks": [2, 4, 8, 16, 32, 64, 128],
    "rank": [4, 8, 16, 32, 64, 128, 256],
    "modules": [12, 24, 48, 96, 192],
    "width": [256, 512, 768, 1024, 2048, 4096],
}
DEFAULTS: dict[str, Any] = {
    "axes": list(POINTS),
    "points": POINTS,
    "tasks": 8,
    "rank": 16,
    "modules": 12,
    "width": 768,
    "space": "knots",
    "rule": "ties",
    "density": 0.2,
    "device": "cpu",
    "threads": os.cpu_count(),
    "repeats": 3,
    "out": str(RESULTS / "scaling.json"),
    "figure": str(HERE / "figures" / "scaling.png"),
}
STEPS = ("align", "threshold", "merge")


def measure_point(shape: Shape, cfg: Any) -> dict[str, Any]:
    """Seconds of a merge's steps and the bytes that it needs."""
    own = {key: cfg[key] for key in OF_A_MERGE if key in cfg and key not in POINTS}
    plain = {**OF_A_MERGE, **own}
    with tempfile.TemporaryDirectory() as name:
        steps = in_new_process(time_steps, write_adapters(shape, Path(name)), plain)
    memory = in_new_process(measure_memory, shape, plain)
    return {
        "seconds": {**{step: steps[step] for step in STEPS}, "in memory": steps["in memory"]},
        "bytes": memory["peak"] - memory["before"],
        "coordinates": coordinate_count(shape, cfg.space),
    }


def measure(cfg: Any) -> dict[str, list[dict[str, Any]]]:
    """Axis -> its points, printed as they come."""
    start = dataclasses.replace(SHAPES["vit_b_32"], **{axis: cfg[axis] for axis in POINTS})
    print(f"{'':<14}{'align':>10}{'threshold':>10}{'merge':>10}{'seconds':>10}{'MB':>10}{'coordinates':>14}")
    found: dict[str, list[dict[str, Any]]] = {}
    for axis in cfg.axes:
        for value in cfg.points[axis]:
            point = measure_point(dataclasses.replace(start, **{axis: value}), cfg)
            found.setdefault(axis, []).append({axis: value, **point})
            steps = "".join(f"{seconds:10.3f}" for seconds in point["seconds"].values())
            needed = f"{point['bytes'] / 1e6:10.0f}{point['coordinates']:14,}"
            print(f"{axis} {value:<{13 - len(axis)}}{steps}{needed}", flush=True)
    return found


def growth(points: list[dict[str, Any]], axis: str, step: str) -> list[float]:
    """Exponents of the growth from point to point: 1 is linear; NaN where a step took no time."""
    return [
        math.log(after["seconds"][step] / before["seconds"][step]) / math.log(after[axis] / before[axis])
        if before["seconds"][step] and after["seconds"][step]
        else math.nan
        for before, after in pairwise(points)
    ]


def draw(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Seconds of the steps above, memory below, a column for each axis."""
    figure, panels = plt.subplots(2, len(found), figsize=(3.4 * len(found), 6), squeeze=False, sharex="col")
    for column, (axis, points) in enumerate(found.items()):
        values = [point[axis] for point in points]
        above, below = panels[:, column]
        for step, style in zip((*STEPS, "in memory"), ("o-", "s-", "^-", "k--"), strict=True):
            name = "all three" if step == "in memory" else step
            above.plot(values, [point["seconds"][step] for point in points], style, label=name, ms=4)
        below.plot(values, [point["bytes"] / 1e6 for point in points], "o-", label="peak memory", ms=4)
        below.plot(values, [4 * point["coordinates"] / 1e6 for point in points], "k:", label="coordinates")
        for panel in (above, below):
            panel.set(xscale="log", yscale="log")
            panel.set_xticks(values, [str(value) for value in values], rotation=45)
            panel.minorticks_off()
            panel.grid(visible=True, alpha=0.3)
        below.set_xlabel(axis)
    for panel, unit in zip(panels[:, 0], ("seconds", "MB"), strict=True):
        panel.set_ylabel(unit)
        panel.legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Measure, print, draw, and write the JSON."""
    cfg = chosen(DEFAULTS)
    one_of("space", cfg.space, SPACES)
    one_of("rule", cfg.rule, [name for name in RULES if name not in ("regmean", "fisher")])
    for axis in cfg.axes:
        one_of("axes", axis, list(POINTS))
    found = measure(cfg)
    for axis, points in found.items():
        for step in STEPS:
            exponents = ", ".join(f"{one:.1f}" for one in growth(points, axis, step))
            print(f"{step} grows with {axis} by the powers {exponents}")
    draw(found, Path(cfg.figure))
    options = {key: value for key, value in OmegaConf.to_container(cfg).items() if key != "figure"}
    write_results(Path(cfg.out), options, found)


if __name__ == "__main__":
    main()
