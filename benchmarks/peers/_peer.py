"""One merge, measured in whatever environment this runs: needs torch and safetensors, and not this library.

A script `with_<peer>.py` hands its cases to `main`, and is started once for every case:

    python with_<peer>.py CASE WORK

WORK is JSON, the fields of `Work`. The merge runs once to warm up, which tells its peak memory, then as often
as wanted; where the first one takes long, it is the only one. The merged updates are written to
`Work.result`. The last line on stdout is JSON: what was measured.
"""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Update = Tensor | tuple[Tensor, Tensor]
"""dW [O, I], or its factors B [O, R] and A [R, I]."""


@dataclass(frozen=True)
class Work:
    """What to merge, and how.

    Attributes:
        base: a transformers checkpoint, `model.safetensors` in its folder.
        adapters: folders of T adapters.
        scratch: an empty folder for files on the way.
        result: the file for the merged updates.
        rank: R of the adapters.
        density: fraction of entries that TIES keeps.
        drop: fraction of entries that DARE zeroes.
        seed: of DARE's masks.
        threads: of torch.
        repeats: how often to merge, after once to warm up.
        enough: no merge is repeated once all of them took so many seconds.
    """

    base: str
    adapters: tuple[str, ...]
    scratch: str
    result: str
    rank: int
    density: float
    drop: float
    seed: int
    threads: int
    repeats: int
    enough: float


@dataclass(frozen=True)
class Case:
    """One way to merge.

    Attributes:
        prepare: what there must be before; counted apart.
        merge: from what was prepared to the merge; what is timed.
        updates: (what was prepared, the merge) -> the merged update of every module, by name.
        clear: makes what was prepared fit for another merge; not timed.
        start: where the inputs lie, "memory" or "disk".
        end: where the merge lies.
    """

    prepare: Callable[[Work], Any]
    merge: Callable[[Work, Any], Any]
    updates: Callable[[Any, Any], Iterable[tuple[str, Update]]]
    clear: Callable[[Work, Any], None] = lambda _work, _prepared: None
    start: str = "memory"
    end: str = "memory"


def main(cases: Mapping[str, Case], packages: Iterable[str]) -> None:
    """Measure the case that the command line names, print what was found as the last line."""
    fields = json.loads(sys.argv[2])
    work = Work(**{**fields, "adapters": tuple(fields["adapters"])})
    torch.set_num_threads(work.threads)
    found = measure(cases[sys.argv[1]], work)
    versions = {"torch": torch.__version__, **{name: version(name) for name in packages}}
    print(json.dumps({**found, "versions": versions}))


def measure(case: Case, work: Work) -> dict[str, Any]:
    """Seconds, memory, and what comes out, of one case."""
    start = memory("VmRSS")
    prepare, prepared = clocked(lambda: case.prepare(work))
    forget()
    first, merged = clocked(lambda: case.merge(work, prepared))
    peak = memory("VmHWM")
    kind = _write(case.updates(prepared, merged), work.result)
    runs: list[dict[str, float]] = []
    while len(runs) < work.repeats and first["wall"] + sum(run["wall"] for run in runs) < work.enough:
        merged = None
        case.clear(work, prepared)
        runs.append(clocked(lambda: case.merge(work, prepared))[0])
    return {
        "start": case.start,
        "end": case.end,
        "seconds": {clock: statistics.median(run[clock] for run in runs or [first]) for clock in first},
        "repeats": len(runs),
        "first_seconds": first,
        "prepare_seconds": prepare,
        "bytes": {"imported": start, "peak": peak},
        **kind,
    }


def clocked(step: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Seconds of a step, by the clock and of all processors, and its result."""
    wall, processors = time.perf_counter(), time.process_time()
    result = step()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - processors}, result


def memory(field: str) -> int | None:
    """Bytes that this process holds (VmRSS) or has held at most (VmHWM); None elsewhere than on Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = status.read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) * 1024


def forget() -> None:
    """Give back what is free, and let the peak start from what is held now."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _write(updates: Iterable[tuple[str, Update]], path: str) -> dict[str, Any]:
    """Write `<module>` or `<module>.b` and `<module>.a`; tell which of them it was."""
    tensors: dict[str, Tensor] = {}
    rank = 0
    for module, update in updates:
        if isinstance(update, Tensor):
            tensors[module] = update.detach().contiguous()
        else:
            b, a = update
            rank = max(rank, b.shape[1])
            tensors |= {f"{module}.b": b.detach().contiguous(), f"{module}.a": a.detach().contiguous()}
    save_file(tensors, path)
    return {"gives": f"adapter of rank {rank}" if rank else "full weights"}


def read_base(work: Work, modules: Iterable[str]) -> dict[str, Tensor]:
    """The base's weights [O, I] of these modules."""
    weights = load_file(Path(work.base) / "model.safetensors")
    return {module: weights[f"{module}.weight"] for module in modules}


def read_factors(folder: str) -> dict[str, tuple[Tensor, Tensor]]:
    """An adapter's factors (B, A) by module; its scaling is 1."""
    tensors = load_file(Path(folder) / "adapter_model.safetensors")
    names = sorted(key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight"))
    return {
        name.removeprefix("base_model.model."): (
            tensors[f"{name}.lora_B.weight"],
            tensors[f"{name}.lora_A.weight"],
        )
        for name in names
    }
