"""Evaluation against a bare forward loop, an ensemble against its models one by one, and the data alone.

    uv run benchmarks/evaluation.py                            the miniature CLIP, on the CPU
    uv run benchmarks/evaluation.py model=mini_llama out=benchmarks/results/evaluation_mini_llama.json
    uv run benchmarks/evaluation.py batch_size=64 items=1000 tasks=[digits,signs]
    uv run benchmarks/evaluation.py model=vit_b_32 device=cuda precision=[32,16] items=2048

What is timed is what `experiments/merge.py` runs: a Lightning module under its trainer, with the reading of
batches, scores, counts, every item's row and a bar that draws. The bare loop puts the same batches, which are
on the device already, through the same module under the same adapter, and keeps the features: nothing else.
In precision 32 the merge is folded into the weights, in 16 or bf16 it stands beside them. `kept` is the bare
loop's time over the evaluation's, from its first batch to its last; `call` counts loading, preparing and the
table of predictions too, and so does the time of the processors, which other work on the machine disturbs
less. Sides take turns, and each repeat has a ratio of its own: the median is printed, with the smallest and
the largest. An ensemble is timed against one evaluation for each of its adapters, on the first two tasks:
`same tower` where as many pictures, copies counted, go through the model at once, which is what `batch_size`
means, `same pictures` where as many different ones do.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from torch import Tensor

from benchmarks._evaluated import Stage, features, on_stage, other_predictions, planned, sent
from benchmarks._measuring import (
    RESULTS,
    chosen,
    mistakes_in_one_line,
    one_of,
    synchronize,
    timed,
    write_results,
)
from experiments._session import session
from knots.adapters import Adapter
from knots.evaluation import Ensemble, EvaluationResult, Merged, Predictor, Single
from knots.evaluation.precision import exact_float32
from knots.models.attach import attach
from knots.models.classifier import Classifier
from knots.pipelines.bench import workshop_for
from knots.pipelines.merge import score
from knots.pipelines.values import whole

DEFAULTS: dict[str, Any] = {
    "model": "mini_clip",
    "merge": "knots_ties",
    "mode": ["per_task", "all"],
    "precision": ["32", "bf16"],
    "batch_size": 256,
    "batch_tokens": [None, 1536],
    "items": 256,
    "tasks": None,
    "ensemble": [2, 8],
    "repeats": 5,
    "device": "cpu",
    "threads": os.cpu_count(),
    "overrides": [],
    "out": str(RESULTS / "evaluation.json"),
}
"""Some are lists, each entry of which is measured. `items`: of each task, at most; `batch_tokens`: of a
language model, None is what runs use; `overrides`: more of Hydra's, of `conf/merge.yaml`."""

ENSEMBLE_TASKS = 2
MODES = ("per_task", "all")


@dataclass(frozen=True, eq=False)
class Bench:
    """The sides that take turns; each gives seconds by name."""

    cfg: Any
    stage: Stage
    console: Console

    @property
    def device(self) -> torch.device:
        """Where they run."""
        return torch.device(self.cfg.device)

    def evaluation(self, predictor: Predictor, **changes: Any) -> tuple[EvaluationResult, dict[str, float]]:
        """One evaluation as runs call it; `changes` of how it is scored."""
        plan = replace(self.stage.plan, scoring=replace(self.stage.plan.scoring, **changes))
        call, result = timed(lambda: score(plan, self.stage.shop, predictor, self.console), self.device)
        assert result.speed is not None
        speed = result.speed
        return result, {
            "seconds": speed.seconds,
            "call_seconds": call["wall"],
            "cpu_seconds": call["cpu"],
            "waiting_share": speed.waiting_share,
        }

    @torch.inference_mode()
    def bare(self, adapter: Adapter | None = None) -> tuple[list[Tensor], dict[str, float]]:
        """The forward loop alone, under an adapter or on the base as it is; the features of every batch."""
        model, batches = self.stage.shop.model, self.stage.batches
        if isinstance(model, Classifier):
            model.suit(self.device)
        under = attach(model.tower, adapter or Adapter("none", {}))
        with under, exact_float32(self.device):
            took, found = timed(lambda: [features(model, batch) for batch in batches], self.device)
        return found, {"seconds": took["wall"], "cpu_seconds": took["cpu"]}

    def data(self) -> dict[str, float]:
        """Every batch read and sent, nothing computed."""
        synchronize(self.device)
        started = time.perf_counter()
        for loader in self.stage.loaders:
            for batch in loader:
                sent(batch, self.device)
        synchronize(self.device)
        return {"seconds": time.perf_counter() - started}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def taking_turns(
    sides: Mapping[str, Callable[[], dict[str, float]]], repeats: int
) -> dict[str, list[dict[str, float]]]:
    """Runs of each side, after one of each that warms up; every other round goes backwards."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name in list(sides)[:: 1 if repeat % 2 else -1]:
            found = sides[name]()
            if repeat:
                runs[name].append(found)
    return runs


def ratios(some: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]], of: str) -> list[float]:
    """A number of one side over that of another, repeat by repeat; names by the key of each, as `a/b`."""
    first, _, second = of.partition("/")
    return [one[first] / two[second or first] for one, two in zip(some, other, strict=True)]


def measure_loop(bench: Bench, modes: Sequence[str]) -> dict[str, Any]:
    """Every mode against the bare loop beside it; the loop on the base alone; the data alone."""
    stage, found = bench.stage, {}
    merge, (kept_features, _) = Merged(stage.adapter), bench.bare(stage.adapter)
    sides: dict[str, Callable[[], dict[str, float]]] = {}
    for mode in modes:
        sides[mode] = lambda mode=mode: bench.evaluation(merge, mode=mode)[1]  # type: ignore[misc]
        sides[f"bare, {mode}"] = lambda: bench.bare(stage.adapter)[1]
    sides |= {"base": lambda: bench.bare()[1], "data": bench.data}
    runs = taking_turns(sides, bench.cfg.repeats)
    for mode in modes:
        bare, result = runs[f"bare, {mode}"], bench.evaluation(merge, mode=mode)[0]
        found[mode] = {
            "evaluation_seconds": middle(runs[mode], "seconds"),
            "bare_seconds": middle(bare, "seconds"),
            "waiting_share": middle(runs[mode], "waiting_share"),
            "kept": spread(ratios(bare, runs[mode], "seconds")),
            "call": spread(ratios(bare, runs[mode], "seconds/call_seconds")),
            "call_cpu": spread(ratios(bare, runs[mode], "cpu_seconds")),
            "other_predictions": other_predictions(stage, kept_features, result),
        }
    counted = {"items": stage.items, "tokens": stage.tokens, "batches": len(stage.batches)}
    alone = {f"{name}_seconds": middle(runs[name], "seconds") for name in ("base", "data")}
    return {**counted, **alone, "modes": found}


def measure_ensemble(bench: Bench, adapters: Sequence[Adapter]) -> dict[str, Any]:
    """One evaluation of several adapters at once, in two sizes of batches, against one of each."""
    more = len(adapters) * bench.cfg.batch_size
    sides: dict[str, Callable[[], dict[str, float]]] = {
        "same tower": lambda: bench.evaluation(Ensemble(adapters))[1],
        **{one.name: lambda one=one: bench.evaluation(Single(one))[1] for one in adapters},  # type: ignore[misc]
        "same pictures": lambda: bench.evaluation(Ensemble(adapters), batch_size=more)[1],
    }
    runs = taking_turns(sides, bench.cfg.repeats)
    singles = zip(*(runs[one.name] for one in adapters), strict=True)
    total = [{key: sum(run[key] for run in some) for key in ("seconds", "cpu_seconds")} for some in singles]
    found: dict[str, Any] = {"adapters": len(adapters), "items": bench.stage.items}
    found["singles_seconds"] = middle(total, "seconds")
    for name in ("same tower", "same pictures"):
        found[name] = {
            "seconds": middle(runs[name], "seconds"),
            "ratio": spread(ratios(runs[name], total, "seconds")),
            "cpu_ratio": spread(ratios(runs[name], total, "cpu_seconds")),
        }
    return found


def middle(runs: Sequence[Mapping[str, float]], key: str) -> float:
    """The median of one number."""
    return statistics.median(run[key] for run in runs)


def measure(cfg: Any, console: Console) -> dict[str, Any]:
    """Everything, by model and precision."""
    device = torch.device(cfg.device)
    loops: list[dict[str, Any]] = []
    ensembles: list[dict[str, Any]] = []
    for model, precision in product(listed(cfg.model), listed(cfg.precision)):
        plan = planned(cfg, model, precision)
        shop, vision = workshop_for(plan), plan.suite.modality == "vision"
        about = {"model": model, "precision": str(precision)}
        for tokens in [None] if vision else listed(cfg.batch_tokens):
            stage = on_stage(planned(cfg, model, precision, tokens), shop, device)
            modes = [one_of("mode", mode, MODES) for mode in listed(cfg.mode)] if vision else ["per_task"]
            loops.append({**about, **measure_loop(Bench(cfg, stage, console), modes)})
            show_loop(loops[-1])
        if vision:
            few = plan.suite.subset(plan.suite.task_names[:ENSEMBLE_TASKS])
            stage = on_stage(replace(plan, suite=few), shop.over(few), device)
            for count in sorted({min(count, len(shop.adapters)) for count in listed(cfg.ensemble)}):
                found = measure_ensemble(Bench(cfg, stage, console), shop.adapters[:count])
                ensembles.append({**about, **found})
                show_ensemble(ensembles[-1])
    return {"loops": loops, "ensembles": ensembles}


def listed(value: Any) -> list[Any]:
    """The entries of a list, or the one value."""
    return value if isinstance(value, list) else [value]


def show_loop(found: Mapping[str, Any]) -> None:
    """A line for each mode, and one for the loop on the base and the data alone."""
    items, each = found["items"], found["items"] / found["batches"]
    name = f"{found['model']:<11}{found['precision']:<6}"
    for mode, one in found["modes"].items():
        rate, bare = items / one["evaluation_seconds"], items / one["bare_seconds"]
        tokens = "" if found["tokens"] is None else f"{rate * found['tokens'] / items:,.0f} tokens/s, "
        print(
            f"{name}{mode:<9}{each:4.0f} a batch {rate:8,.0f} items/s, {tokens}bare {bare:8,.0f}: "
            f"kept {shown(one['kept'])}, call {one['call']['median']:.3f}, "
            f"its processors' time {one['call_cpu']['median']:.3f}, "
            f"{100 * one['waiting_share']:.1f} % waiting, {one['other_predictions']} other predictions"
        )
    base, data = items / found["base_seconds"], items / found["data_seconds"]
    print(f"{name}bare loop on the base {base:,.0f} items/s; data alone {data:,.0f} items/s", flush=True)


def show_ensemble(found: Mapping[str, Any]) -> None:
    """A line for each size of batches."""
    name = f"{found['model']:<11}{found['precision']:<6}ensemble of {found['adapters']}"
    for size in ("same tower", "same pictures"):
        one = found[size]
        took = f"{one['seconds']:.2f} s, one by one {found['singles_seconds']:.2f} s"
        cpu = f"processors' time {one['cpu_ratio']['median']:.3f} times"
        print(f"{name}, {size}: {took}: {shown(one['ratio'])} times, {cpu}", flush=True)


def shown(ratio: Mapping[str, float]) -> str:
    """A median and its range."""
    return f"{ratio['median']:.3f} ({ratio['least']:.3f} to {ratio['most']:.3f})"


def main(words: Sequence[str] | None = None) -> None:
    """Print the table, write the JSON."""
    chosen_options = OmegaConf.to_container(chosen(DEFAULTS, words))
    assert isinstance(chosen_options, dict)
    cfg = SimpleNamespace(**chosen_options)
    torch.set_num_threads(cfg.threads)
    with Path(os.devnull).open("w") as nowhere, session(), mistakes_in_one_line():
        whole("repeats", cfg.repeats)
        found = measure(cfg, Console(file=nowhere, force_terminal=True))
    write_results(Path(cfg.out), vars(cfg), found)


if __name__ == "__main__":
    main()
