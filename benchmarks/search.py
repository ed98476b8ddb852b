"""What a grid search spends its time on, and what sharing saves: KnOTS-TIES, scale x density.

    uv run benchmarks/search.py
    uv run benchmarks/search.py points=4 alone=3 model=mini_llama

One search of points x points candidates on the validation split. Its time is that of the whole call but for
loading, which happens before; forward passes are the calls of the base model, by a clock around each. Beside
it, some candidates each in a search of its own, which loads and aligns everything anew. Ratios are of this
one run.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from experiments._cli import CONF, plain
from knots.pipelines.bench import workshop_for
from knots.pipelines.search.plan import SearchPlan, parse_search
from knots.pipelines.search.run import run_search
from knots.provenance import describe_machine

DEFAULTS = {
    "model": "mini_clip",
    "merge": "knots_ties",
    "points": 10,
    "alone": 5,
    "device": "cpu",
    "out": str(Path(__file__).parent / "results" / "search.json"),
}


def planned(cfg: Any, folder: Path, values: dict[str, list[float]]) -> SearchPlan:
    overrides = [f"search.values.{name}={numbers}" for name, numbers in values.items()]
    places = [f"paths.output_dir={folder}", "logger=none", f"trainer={cfg.device}", "test_split=null"]
    chosen = [f"model={cfg.model}", f"merge={cfg.merge}", "search=grid"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse_search(plain(compose("search", overrides=[*chosen, *places, *overrides])))


@contextmanager
def timing(model: nn.Module) -> Iterator[list[float]]:
    """Seconds of every call of a model."""
    seconds: list[float] = []
    forward = model.forward

    def timed(*args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        found = forward(*args, **options)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        return found

    model.forward = timed  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        model.forward = forward  # type: ignore[method-assign]


def shared(cfg: Any, folder: Path) -> dict[str, float]:
    """The whole grid in one search."""
    tenths = [round((n + 1) / cfg.points, 3) for n in range(cfg.points)]
    plan = planned(cfg, folder, {"scale": tenths, "density": tenths})
    shop = workshop_for(plan.merge)
    # What is loaded once: base, adapters, heads, data caches, the fine-tuned reference and the alignment.
    warm = planned(cfg, folder, {"scale": [2.0], "density": [1.0]})
    run_search(warm, workshop=shop)
    with timing(shop.model) as forward:
        started = time.perf_counter()
        run_search(plan, workshop=shop)
        seconds = time.perf_counter() - started
    return {"candidates": cfg.points**2, "seconds": seconds, "forward_seconds": sum(forward)}


def alone(cfg: Any, folder: Path) -> list[float]:
    """Seconds of some candidates, each in a search of its own; the fine-tuned reference is there already."""
    seconds = []
    for number in range(cfg.alone):
        plan = planned(cfg, folder, {"scale": [0.05 + 0.1 * number], "density": [0.25]})
        started = time.perf_counter()
        run_search(plan)
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Print the shares and the ratio, write the JSON."""
    cfg = OmegaConf.merge(DEFAULTS, OmegaConf.from_cli(sys.argv[1:]))
    with tempfile.TemporaryDirectory() as name:
        whole = shared(cfg, Path(name))
        single = alone(cfg, Path(name))
    share = whole["forward_seconds"] / whole["seconds"]
    each = whole["seconds"] / whole["candidates"]
    ratio = sum(single) / len(single) / each
    print(f"{whole['candidates']} candidates in {whole['seconds']:.1f} s, {each:.2f} s each")
    print(f"forward passes: {100 * share:.1f} % of the time")
    print(f"a candidate in a search of its own: {ratio:.2f} times as long (with loading)")
    facts = {key: value for key, value in describe_machine().items() if key != "command"}
    facts["machine"] = {key: value for key, value in facts["machine"].items() if key != "host"}
    found = {**whole, "forward_share": share, "seconds_alone": single, "ratio_alone": ratio}
    options = {key: value for key, value in OmegaConf.to_container(cfg).items() if key != "out"}
    content = {**facts, "options": options, "measured": found}
    Path(cfg.out).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
