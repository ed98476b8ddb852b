"""Time and memory of a merge, step by step, beside the published algorithm and what the machine can do.

    uv run benchmarks/merging.py                              eight rank-16 adapters of ViT-B/32, knots_ties
    uv run benchmarks/merging.py shape=vit_l_14 reference=true
    uv run benchmarks/merging.py shape=llama3_8b reference=true
    uv run benchmarks/merging.py space=full rule=ties density=0.1 tasks=4 rank=64

Loading, aligning, finding the thresholds, merging and saving are timed apart: medians of repeats after a
warm-up. The peak memory is that of another process which merges once. A time's floor is what this machine, in
the same run, needs for the least that the step could do: of an alignment the operations of its decompositions
at the speed of a large product in float64, of the rest one pass over the coordinates.

`reference=true` runs the published algorithm beside it, plainly written: a dense SVD of [O, T I] in float64 a
module, for `budget` seconds and each shape at least once, the rest extrapolated; then torch.kthvalue and TIES
on whole tensors; and Core Space's merge of the same adapters. Where other work runs at the same time, threads
that wait for each other had better not spin: OMP_WAIT_POLICY=PASSIVE.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

import knots
from benchmarks._adapters import SHAPES, Shape, random_adapters, write_adapters
from benchmarks._measuring import (
    RESULTS,
    chosen,
    forget_peak,
    in_new_process,
    median_seconds,
    one_of,
    peak_memory,
    synchronize,
    timed,
    write_results,
)
from benchmarks._rivals import (
    alignment_flops,
    core_space_merge,
    distance,
    modules_of,
    multiplication_rate,
    pass_rates,
    reference_seconds,
    whole_tensor_ties,
)
from knots.rules import RULES
from knots.rules.selection import RadixSelection
from knots.spaces import SPACES, align_modules
from knots.updates import LowRank

DEFAULTS: dict[str, Any] = {
    "shape": "vit_b_32",
    "space": "knots",
    "rule": "ties",
    "density": 0.2,
    "drop": 0.0,
    "scale": 0.5,
    "max_rank": None,
    "tasks": None,
    "rank": None,
    "width": None,
    "modules": None,
    "device": "cpu",
    "threads": os.cpu_count(),
    "repeats": 5,
    "reference": False,
    "budget": 60.0,
    "out": None,
}
"""`tasks`, `rank`, `width`, `modules`: of the shape where null. `budget`: seconds of the dense alignment."""

STEPS = ("load", "align", "threshold", "merge", "save")


def shape_of(cfg: Any) -> Shape:
    """The shape that was asked for, with what was given beside it."""
    given = {name: cfg[name] for name in ("tasks", "rank", "width", "modules") if cfg[name] is not None}
    return dataclasses.replace(SHAPES[cfg.shape], **given)


def options_of(cfg: Any) -> dict[str, Any]:
    """Keywords of `knots.merge`."""
    options = {"space": cfg.space, "rule": cfg.rule, "scale": cfg.scale, "device": cfg.device}
    if cfg.rule == "ties":
        options["density"] = cfg.density
    return options | ({"drop": cfg.drop, "seed": 420} if cfg.drop else {})


@contextmanager
def stopwatch(device: str) -> Iterator[dict[str, float]]:
    """When, after the beginning of a merge, its alignment and its last round of selection ended."""
    began = time.perf_counter()
    marks: dict[str, float] = {}

    def marking(name: str, function: Any) -> Any:
        def marked(*args: Any, **kwargs: Any) -> Any:
            found = function(*args, **kwargs)
            synchronize(device)
            marks[name] = time.perf_counter() - began
            return found

        return marked

    with (
        patch("knots.merging.align_modules", marking("align", align_modules)),
        patch.object(RadixSelection, "end_round", marking("threshold", RadixSelection.end_round)),
    ):
        yield marks
        marks["merge"] = time.perf_counter() - began


def merge_seconds(adapters: Sequence[knots.Adapter], options: dict[str, Any]) -> dict[str, float]:
    """Seconds of a merge's steps, from adapters in memory to a merged one."""
    synchronize(options["device"])
    with stopwatch(options["device"]) as marks:
        knots.merge(adapters, **options)
        synchronize(options["device"])
    threshold = marks.get("threshold", marks["align"])
    return {
        "align": marks["align"],
        "threshold": threshold - marks["align"],
        "merge": marks["merge"] - threshold,
    }


def time_steps(folders: Sequence[Path], plain: dict[str, Any]) -> dict[str, float]:
    """Median seconds of every step, in a process that does nothing else."""
    cfg = OmegaConf.create(plain)
    torch.set_num_threads(cfg.threads)
    options = options_of(cfg)
    loads = [timed(lambda: [knots.load_adapter(one) for one in folders]) for _ in range(2)]
    adapters = loads[-1][1]
    merge_seconds(adapters, options)
    steps = [merge_seconds(adapters, options) for _ in range(cfg.repeats)]
    merged = knots.merge(adapters, **options)
    save, error = timed(lambda: knots.save_adapter(merged, folders[0].parent / "out", max_rank=cfg.max_rank))
    medians = {name: statistics.median(one[name] for one in steps) for name in steps[0]}
    whole = statistics.median(sum(one.values()) for one in steps)
    return {
        "load": loads[-1][0]["wall"],
        **medians,
        "save": save["wall"],
        "in memory": whole,
        "relative_error": error,
    }


def measure_memory(shape: Shape, plain: dict[str, Any]) -> dict[str, int]:
    """Bytes that one merge needs beside the process as it was before the adapters were there."""
    cfg = OmegaConf.create(plain)
    torch.set_num_threads(cfg.threads)
    options = options_of(cfg)
    # The threads, and what the libraries keep for each.
    knots.merge(random_adapters(dataclasses.replace(shape, modules=len(shape.out))), **options)
    before = forget_peak(cfg.device)
    adapters = random_adapters(shape)
    merged = knots.merge(adapters, **options)
    del merged
    return {"before": before, "peak": peak_memory(cfg.device)}


def coordinate_count(shape: Shape, space: str) -> int:
    """Coordinates of all tasks together."""
    together = shape.tasks * shape.rank
    sides = {
        "full": lambda o, i: o * i,
        "core": lambda o, i: min(o, together) * min(i, together),
        "knots_rows": lambda o, i: o * min(i, together),
    }
    count = sides.get(space, lambda o, i: min(o, together) * i)
    return shape.tasks * sum(count(o, i) for o, i in shape.sides)


def floors(shape: Shape, cfg: Any) -> dict[str, float]:
    """Seconds that the least of every step would take on this machine."""
    rates = pass_rates(cfg.device, shape.tasks)
    coordinates = coordinate_count(shape, cfg.space)
    flops = alignment_flops(modules_of(random_adapters(shape)))
    knots_space = cfg.space.startswith("knots")
    return {
        "align": flops / multiplication_rate(cfg.device) if knots_space else 0.0,
        "threshold": coordinates / rates["read"] if cfg.rule == "ties" and cfg.density < 1 else 0.0,
        "merge": coordinates / rates["merge"],
    }


def measure_rivals(shape: Shape, plain: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the published algorithms, in a process of their own, and how far our merge is from them."""
    cfg = OmegaConf.create(plain)
    torch.set_num_threads(cfg.threads)
    adapters = random_adapters(shape)
    modules = modules_of(adapters)
    core = median_seconds(lambda: core_space_merge(modules, cfg.density), 3)
    coords = knots_coordinates(modules)
    ties = timed(partial(whole_tensor_ties, coords, cfg.density))[0]["wall"]
    del coords
    dense = reference_seconds(modules, cfg.budget)
    smallest = min(adapters[0].updates, key=lambda name: adapters[0].updates[name].shape)
    alone = [knots.Adapter(one.name, {smallest: one.updates[smallest]}) for one in adapters]
    ours = knots.merge(alone, **{**options_of(cfg), **knots.METHODS["knots_ties"]}).updates[smallest].dense()
    return {
        "core_space": core,
        "kthvalue_ties": ties,
        "dense": dataclasses.asdict(dense),
        "reference": dense.align + dense.lift + ties,
        "distance": distance(ours, modules_of(alone)[0], cfg.scale, cfg.density),
    }


def knots_coordinates(modules: Sequence[Sequence[LowRank]]) -> Tensor:
    """The coordinates [T, N] of all modules, in one tensor."""
    updates = {str(number): parts for number, parts in enumerate(modules)}
    aligned = align_modules(SPACES["knots"], updates, 1e-5)
    return torch.cat([one.read().flatten(1) for one in aligned.values()], dim=1)


def show(steps: dict[str, float], least: dict[str, float], memory: dict[str, Any]) -> None:
    """Print the table of steps."""
    print(f"{'step':<12}{'seconds':>10}{'floor':>10}{'ratio':>8}")
    for name in STEPS:
        floor = least.get(name, 0.0)
        beside = f"{floor:10.4f}{steps[name] / floor:8.1f}" if floor else ""
        print(f"{name:<12}{steps[name]:10.4f}{beside}")
    print(f"{'in memory':<12}{steps['in memory']:10.4f}   align, threshold and merge")
    print(
        f"peak memory {memory['needed'] / 1e6:.0f} MB beside the process: {memory['ratio']:.2f} times "
        f"coordinates ({memory['coordinates'] / 1e6:.0f} MB) and adapters ({memory['adapters'] / 1e6:.0f} MB)"
    )


def show_rivals(found: dict[str, Any], steps: dict[str, float]) -> None:
    """Print how many times longer the published algorithms took."""
    dense, ours = found["dense"], steps["in memory"]
    passes = steps["threshold"] + steps["merge"]
    rows = [
        (
            f"reference, extrapolated from {dense['measured']} of {dense['modules']} modules",
            found["reference"],
            ours,
        ),
        ("kthvalue and whole-tensor TIES", found["kthvalue_ties"], passes),
        ("Core Space's merge", found["core_space"], ours),
    ]
    print(f"\n{'published':<48}{'seconds':>10}{'of ours':>10}")
    for name, seconds, beside in rows:
        print(f"{name:<48}{seconds:10.2f}{seconds / beside:10.1f}")
    print(f"our merge of one module is {found['distance']:.1e} from the reference's")


def measure(cfg: DictConfig) -> dict[str, Any]:
    """Everything that was asked for, printed."""
    shape, plain = shape_of(cfg), OmegaConf.to_container(cfg)
    with tempfile.TemporaryDirectory() as name:
        folders = write_adapters(shape, Path(name))
        steps = in_new_process(time_steps, folders, plain)
    memory = in_new_process(measure_memory, shape, plain)
    memory |= {"coordinates": 4 * coordinate_count(shape, cfg.space), "adapters": 4 * shape.numbers}
    memory["needed"] = memory["peak"] - memory["before"]
    memory["ratio"] = memory["needed"] / (memory["coordinates"] + memory["adapters"])
    least = floors(shape, cfg)
    show(steps, least, memory)
    found = {"seconds": steps, "floors": least, "bytes": memory}
    if cfg.reference:
        found["rivals"] = in_new_process(measure_rivals, shape, plain)
        show_rivals(found["rivals"], steps)
    return found


def main() -> None:
    """Measure, print, and write the JSON."""
    cfg = chosen(DEFAULTS)
    one_of("shape", cfg.shape, SHAPES)
    one_of("space", cfg.space, SPACES)
    one_of("rule", cfg.rule, [name for name in RULES if name not in ("regmean", "fisher")])
    torch.set_num_threads(cfg.threads)
    found = measure(cfg)
    method = "" if (cfg.space, cfg.rule) == ("knots", "ties") else f"_{cfg.space}_{cfg.rule}"
    path = Path(cfg.out) if cfg.out else RESULTS / f"merging_{cfg.shape}{method}.json"
    write_results(path, cfg, found)


if __name__ == "__main__":
    main()
