"""Peak memory of whole runs of the pipeline; run as a script, for a process remembers what it once needed.

    python -m tests.peak_memory FOLDER KIND [KIND ...]

FOLDER holds `base` and `adapters/<task>`. Prints JSON: for every kind of run how far the resident memory rose
above what the process held before it, in bytes. Each run makes its baselines first, as a first run does, so
that the whole base is in memory when merging begins: its file is mapped, and read when first needed.
"""

import ctypes
import gc
import json
import sys
import warnings
from pathlib import Path

from knots.pipelines import MergePlan, run_merge
from knots.pipelines.model_plan import ModelPlan
from knots.pipelines.plans import EvalPlan
from knots.suites import data
from knots.suites.tasks import Suite, parse_suite
from tests.miniatures import NOISE, TASKS, tiny_adapter, tiny_clip
from tests.pipelines.conftest import OPTIONS

NAMES = tuple(f"task_{number}" for number in range(8))
"""The eight tasks."""

KINDS: dict[str, dict[str, str]] = {
    "zero_shot": {},
    "finetuned": {},
    "ensemble": {},
    "knots_ties": {"space": "knots", "rule": "ties"},
    "ties": {"space": "full", "rule": "ties"},
}
"""Predictors, and options of those that merge."""


def eight_tasks() -> Suite:
    """Eight tasks of a handful of images."""
    task = {**TASKS["patterns"], "sizes": {"test": 5}, "source": {"kind": "noise"}}
    return parse_suite({"name": "eight", "modality": "vision", "tasks": dict.fromkeys(NAMES, task)})


def plan(folder: Path, name: str) -> MergePlan:
    """The run of one of `KINDS` over the models in `folder`."""
    merge = KINDS[name]
    return MergePlan(
        model=ModelPlan("random", "clip", str(folder / "base"), None, str(folder / "adapters" / "{task}")),
        suite=eight_tasks(),
        kind="merged" if merge else name,
        options={**OPTIONS, **merge} if merge else {},
        seed=0,
        max_rank=None,
        scoring=EvalPlan("all", "float32", "test", "measured", "32", 8),
        trainer={"accelerator": "cpu", "devices": 1},
        root=folder / "outputs" / name,
        cache_dir=folder / "cache",
        config={"merge": {}},
    )


def peak() -> int:
    """The most memory this process has held since `forget`, in bytes.

    Not `getrusage`'s `ru_maxrss`: that starts with the peak of the process that started this one, and pytest
    has held the models when it wrote them.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def forget() -> int:
    """Give back what is free, make what is held now the peak, and return it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak()


def main(folder: str, *names: str) -> None:
    """Run each kind after a tiny one, which takes what any first run takes (libraries, fonts)."""
    data.SOURCES = {"noise": NOISE}
    tiny = Path(folder) / "tiny"
    tiny_clip(tiny / "base")
    for seed, task in enumerate(NAMES):
        tiny_adapter(tiny / "adapters" / task, seed=seed)
    run_merge(plan(tiny, "knots_ties"))
    growth = {}
    for name in names:
        before = forget()
        run_merge(plan(Path(folder), name))
        growth[name] = peak() - before
    sys.stdout.write(json.dumps(growth) + "\n")


if __name__ == "__main__":
    warnings.filterwarnings("error", module=r"knots\.")
    main(*sys.argv[1:])
