"""Time and memory of merges from adapter folders to an adapter folder, on random adapters of real shapes.

    uv run benchmarks/merging.py                         eight rank-16 adapters of ViT-B/32, knots_ties
    uv run benchmarks/merging.py method=core_tsv rank=64 tasks=4 modules=96 width=1024
    uv run benchmarks/merging.py shape=llama3_8b         six of Llama3-8B: six merges and the reference

Loading, merging and saving are timed apart, each run in a process of its own, whose peak memory is that of
the run; medians of the repeats are kept. A shape with `reference` also runs the published algorithm, a dense
SVD of [O, T I] in float64, on the first module of each shape, and tells what it would take for all of them.
Where other work runs at the same time, threads that wait for each other had better not spin:
OMP_WAIT_POLICY=PASSIVE; the load average of the last minute is noted with every merge.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

import knots
from knots.provenance import describe_machine
from knots.rules.ties import elect_and_merge

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Case:
    """One merge: a method of `knots.METHODS`, its options, and the rank to save at."""

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    max_rank: int | None = None
    repeats: int | None = None


DEFAULTS: dict[str, Any] = {
    "shape": "vit_b_32",
    "method": "knots_ties",
    "options": {"density": 0.2},
    "scale": 0.5,
    "device": "cpu",
    "threads": os.cpu_count(),
    "repeats": 3,
}
SHAPES: dict[str, dict[str, Any]] = {
    "vit_b_32": {
        "tasks": 8,
        "rank": 16,
        "width": 768,
        "modules": 48,
        "layers": "encoder.layers",
        "out": {"q_proj": 1.0, "k_proj": 1.0, "v_proj": 1.0, "out_proj": 1.0},
        "classes": 0,
        "reference": False,
    },
    "llama3_8b": {
        "tasks": 6,
        "rank": 16,
        "width": 4096,
        "modules": 128,
        "layers": "model.layers",
        "out": {"q_proj": 1.0, "k_proj": 0.25, "v_proj": 0.25, "o_proj": 1.0},
        "classes": 3,
        "reference": True,
    },
}
"""`out`: sides of the projections, as multiples of `width`; `classes`: rows of a head, 0 for none."""

CASES: dict[str, tuple[Case, ...]] = {
    "llama3_8b": (
        Case("knots_ties", {"density": 1.0}),
        Case("knots_ties", {"density": 0.2}),
        Case("knots_dare_ties", {"drop": 0.8, "seed": 420}),
        Case("task_arithmetic"),
        Case("ties", {"density": 1.0}, max_rank=64, repeats=1),
        Case("ties", {"density": 0.2}, max_rank=64, repeats=1),
    )
}


def write_adapters(root: Path, cfg: DictConfig) -> list[Path]:
    """Folders as the hub has them: pickled float32, all tasks from one shared A that drifted a little."""
    folders = [root / f"task_{task}" for task in range(cfg.tasks)]
    for task, folder in enumerate(folders):
        folder.mkdir()
        torch.save(_tensors(task, cfg), folder / "adapter_model.bin")
        config = {
            "peft_type": "LORA",
            "r": cfg.rank,
            "lora_alpha": cfg.rank,
            "target_modules": list(cfg.out),
            "task_type": "SEQ_CLS" if cfg.classes else None,
        }
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folders


def _tensors(task: int, cfg: DictConfig) -> dict[str, Tensor]:
    shared, own = torch.Generator().manual_seed(99), torch.Generator().manual_seed(task)
    tensors = {}
    for number in range(cfg.modules):
        projection = list(cfg.out)[number % len(cfg.out)]
        key = f"base_model.model.{cfg.layers}.{number // len(cfg.out)}.self_attn.{projection}"
        down = torch.randn(cfg.rank, cfg.width, generator=shared)
        drift = torch.randn(cfg.rank, cfg.width, generator=own)
        up = torch.randn(int(cfg.width * cfg.out[projection]), cfg.rank, generator=own)
        tensors[f"{key}.lora_A.weight"] = (down + 0.1 * drift) / cfg.width**0.5
        tensors[f"{key}.lora_B.weight"] = 0.05 * up
    if cfg.classes:
        head = torch.randn(cfg.classes, cfg.width, generator=own) / cfg.width**0.5
        tensors["base_model.model.score.weight"] = head
    return tensors


def peak_memory() -> int:
    """The most memory that this process has held, in bytes; elsewhere than on Linux perhaps its parent's."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    lines = status.read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024


def timed(step: Callable[[], Any], device: str) -> tuple[dict[str, float], Any]:
    """Seconds of a step, by the clock and of all processors, with the device idle before and after."""
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    synchronize()
    wall, processors = time.perf_counter(), time.process_time()
    result = step()
    synchronize()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - processors}, result


def run_case(folders: Sequence[Path], out: Path, case: Case, cfg: dict[str, Any]) -> dict[str, Any]:
    """One merge from folders to a folder, in a process that does nothing else."""
    torch.set_num_threads(cfg["threads"])
    device, before = cfg["device"], peak_memory()
    options = {**knots.METHODS[case.method], **case.options, "scale": cfg["scale"], "device": device}
    load, adapters = timed(lambda: [knots.load_adapter(folder) for folder in folders], device)
    merge, merged = timed(lambda: knots.merge(adapters, **options), device)
    save, error = timed(lambda: knots.save_adapter(merged, out, max_rank=case.max_rank), device)
    steps = {"load": load, "merge": merge, "save": save}
    total = {clock: sum(step[clock] for step in steps.values()) for clock in load}
    memory = {"before": before, "peak": peak_memory()}
    return {"seconds": {**steps, "total": total}, "bytes": memory, "relative_error": error}


def in_new_process(function: Callable[..., Any], *arguments: object) -> Any:
    """A function's result, from a process whose peak memory is the function's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def median_run(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run of median time, with the largest peak of all."""
    middle = statistics.median_low(run["seconds"]["total"]["wall"] for run in runs)
    chosen: dict[str, Any] = next(run for run in runs if run["seconds"]["total"]["wall"] == middle)
    peak = max(run["bytes"]["peak"] for run in runs)
    return {**chosen, "bytes": {**chosen["bytes"], "peak": peak}, "repeats": len(runs)}


def measure(folders: list[Path], case: Case, cfg: DictConfig) -> dict[str, Any]:
    """Repeat a case and print it."""
    runs, plain = [], OmegaConf.to_container(cfg)
    for _ in range(case.repeats or cfg.repeats):
        out = folders[0].parent / "out"
        runs.append(in_new_process(run_case, folders, out, case, plain))
        shutil.rmtree(out)
    found = median_run(runs)
    steps = "  ".join(f"{name} {s['wall']:.2f} ({s['cpu']:.2f})" for name, s in found["seconds"].items())
    print(
        f"{case.method} {case.options} max_rank={case.max_rank}: seconds by the clock (of processors) {steps}"
    )
    print(f"    peak {found['bytes']['peak'] / 1e9:.2f} GB, relative error {found['relative_error']:.3g}")
    return {**asdict(case), **found, "load_average": os.getloadavg()[0]}


def reference_merge(updates: Sequence[Tensor], scale: float) -> Tensor:
    """KnOTS-TIES at density 1 as published: [O, I] from T matrices [O, I], by one dense SVD in float64."""
    u, s, vt = torch.linalg.svd(torch.cat([w.double() for w in updates], dim=1), full_matrices=False)
    kept = s > 1e-5
    coords = torch.stack((s[kept, None] * vt[kept]).float().chunk(len(updates), dim=1))
    return u[:, kept].float() @ elect_and_merge(coords, None, torch.ones(len(updates)), "mean") * scale


def run_reference(folders: Sequence[Path], cfg: dict[str, Any], module: str) -> dict[str, Any]:
    """The published algorithm and ours on one module, and how far apart their merges are."""
    torch.set_num_threads(cfg["threads"])
    adapters = [knots.load_adapter(folder) for folder in folders]
    alone = [knots.Adapter(a.name, {module: a.updates[module]}) for a in adapters]
    dense = [a.updates[module].dense() for a in adapters]
    options = {**knots.METHODS["knots_ties"], "scale": cfg["scale"]}
    knots.merge(alone, **options)
    ours, merged = timed(lambda: knots.merge(alone, **options), "cpu")
    theirs, expected = timed(lambda: reference_merge(dense, cfg["scale"]), "cpu")
    distance = (merged.updates[module].dense() - expected).norm() / expected.norm()
    shape = list(dense[0].shape)
    return {"module": module, "shape": shape, "ours": ours, "reference": theirs, "distance": float(distance)}


def compare(folders: list[Path], cfg: DictConfig) -> dict[str, Any]:
    """Both algorithms on the first module of each shape; times for all modules are extrapolated."""
    updates = knots.load_adapter(folders[0]).updates
    modules: dict[tuple[int, int], list[str]] = {}
    for name, update in updates.items():
        modules.setdefault(update.shape, []).append(name)
    plain = OmegaConf.to_container(cfg)
    measured = [in_new_process(run_reference, folders, plain, names[0]) for names in modules.values()]
    whole = {
        side: sum(
            len(names) * one[side]["wall"] for names, one in zip(modules.values(), measured, strict=True)
        )
        for side in ("ours", "reference")
    }
    ratio = whole["reference"] / whole["ours"]
    print(
        f"extrapolated from {len(measured)} modules: reference {whole['reference']:.0f} s, {ratio:.0f} x ours"
    )
    return {"measured": measured, "extrapolated": {"wall_of_all_modules": whole, "ratio": ratio}}


def cpu_name() -> str:
    if sys.platform != "linux":
        return "unknown"
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def main() -> None:
    """Run the cases of a shape, or the one that the command line tells; shapes with cases write a JSON."""
    given = OmegaConf.from_cli(sys.argv[1:])
    shape = given.get("shape", DEFAULTS["shape"])
    cfg = OmegaConf.merge(DEFAULTS, SHAPES[shape], given)
    assert isinstance(cfg, DictConfig)
    own = Case(cfg.method, dict(cfg.options))
    cases = (own,) if "method" in given else CASES.get(shape, (own,))
    with tempfile.TemporaryDirectory() as name:
        folders = write_adapters(Path(name), cfg)
        found: dict[str, Any] = {"merges": [measure(folders, case, cfg) for case in cases]}
        if cfg.reference and "method" not in given:
            found["reference"] = compare(folders, cfg)
    if "method" in given or shape not in CASES:
        return
    facts = {key: value for key, value in describe_machine().items() if key != "command"}
    facts["machine"] = {key: value for key, value in facts["machine"].items() if key != "host"}
    facts["machine"] |= {"cpu": cpu_name(), "waiting": os.environ.get("OMP_WAIT_POLICY", "default")}
    content = {**facts, "options": OmegaConf.to_container(cfg), **found}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"merging_{shape}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
