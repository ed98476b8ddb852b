"""Candidates a second of a grid search over scale x density x drop, and what sharing between them saves.

    uv run benchmarks/search.py                                     4 x 4 x 4 candidates: four minutes
    uv run benchmarks/search.py points=2 items=100                  a few seconds
    uv run benchmarks/search.py merge=knots_ties overrides= points=10    scale x density
    uv run benchmarks/search.py merge=knots_ties model=mini_llama overrides=

Searches points x points x points candidates on the validation split, as far as the method takes the options;
DARE leaves nothing to trim, unless it comes after the trimming, as the default overrides say. Base, adapters,
heads, data and the fine-tuned reference are there before the clock starts. Beside it some candidates are
searched without reuse, each aligned and merged anew on the same loaded base; and some each in a search of its
own, which loads everything as well. Ratios are of this one run.
"""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from benchmarks._measuring import RESULTS, chosen, give_up, mistakes_in_one_line, one_of, write_results
from benchmarks._stages import ATTACHING, FORWARD, MERGING, WAITING, Stages
from benchmarks._work import fewer_items
from experiments._arguments import quoted
from experiments._cli import CONF, plain
from experiments._session import session
from knots.errors import KnotsError
from knots.pipelines.bench import workshop_for
from knots.pipelines.search.plan import SearchPlan, parse_search
from knots.pipelines.search.run import run_search

DEFAULTS: dict[str, Any] = {
    "model": "mini_clip",
    "merge": "knots_dare_ties",
    "overrides": "+merge.dare_after=trim",
    "points": 4,
    "alone": 5,
    "items": None,
    "device": "cpu",
    "threads": os.cpu_count(),
    "cache_dir": None,
    "out": str(RESULTS / "search.json"),
}
TRAINERS = {"cpu": "cpu", "cuda": "gpu"}
OPTIONS = ("scale", "density", "drop")


def planned(cfg: Any, folder: Path, values: Mapping[str, Sequence[float]]) -> SearchPlan:
    """A grid of these values; a mistake in the options ends the program."""
    given = [f"search.values.{name}=[{','.join(map(str, numbers))}]" for name, numbers in values.items()]
    places = [f"paths.output_dir={folder}", "logger=none", f"trainer={TRAINERS[cfg.device]}"]
    if cfg.cache_dir is not None:
        places.append(f"paths.cache_dir={cfg.cache_dir}")
    grid = [f"model={cfg.model}", f"merge={cfg.merge}", "search=grid", "search.seeds=null", "test_split=null"]
    asked = [*grid, *places, *given, *shlex.split(cfg.overrides)]
    with mistakes_in_one_line(), initialize_config_dir(str(CONF), version_base="1.3"):
        whole = parse_search(plain(compose("search", [quoted(word) for word in asked])))
        fewer = fewer_items(whole.merge.suite, cfg["items"])
        return parse_search(plain(compose("search", [quoted(word) for word in (*asked, *fewer)])))


def grid(points: int) -> dict[str, list[float]]:
    """So many values of every option; drop ends below 1."""
    steps = range(1, points + 1)
    shares = [round(n / points, 4) for n in steps]
    return {"scale": shares, "density": shares, "drop": [round(n / (points + 1), 4) for n in steps]}


def few(cfg: Any, offset: float) -> dict[str, list[float]]:
    """Some candidates that no grid has, for every offset other ones, which no log of trials knows."""
    scales = [round(offset + 0.1 * n, 4) for n in range(cfg.alone)]
    return {"scale": scales, "density": [0.2345], "drop": [0.3456]}


def searched(cfg: Any, folder: Path, values: Mapping[str, Sequence[float]], *, keeps: bool) -> dict[str, Any]:
    """One search; `keeps`: its candidates share alignment and merges. Everything is loaded before."""
    plan = planned(cfg, folder, values)
    shop = workshop_for(plan.merge, keeps=keeps)
    # What is loaded once: base, adapters, heads, data caches, the fine-tuned reference and the alignment.
    warm = {"scale": [2.0 + keeps], "density": [0.9876], "drop": [0.4567]}
    run_search(planned(cfg, folder, warm), workshop=shop)
    with Stages(cfg.device).watching() as stages:
        found = run_search(plan, workshop=shop)
    # Without the search's record and figure, which a search of few candidates has as well as one of many.
    scoring = found.run.provenance()
    candidates, seconds = scoring["scored"], scoring["seconds"]
    return {
        "searched": list(plan.searched),
        "candidates": candidates,
        "seconds": seconds,
        "seconds_of_the_search": stages.total,
        "candidates_per_second": candidates / seconds,
        "forward_share": stages.seconds[FORWARD] / seconds,
        "merging_share": stages.seconds[MERGING] / seconds,
        "merging_seconds_each": stages.seconds[MERGING] / candidates,
        "attaching_seconds_each": stages.seconds[ATTACHING] / candidates,
        "waiting_share": stages.seconds[WAITING] / seconds,
    }


def alone(cfg: Any, folder: Path) -> float:
    """Seconds of a candidate in a search of its own; the fine-tuned reference is there already."""
    values = few(cfg, 0.0456)
    plans = [planned(cfg, folder, {**values, "scale": [scale]}) for scale in values["scale"]]
    started = time.perf_counter()
    for plan in plans:
        run_search(plan)
    return (time.perf_counter() - started) / len(plans)


def show(found: Mapping[str, Any]) -> None:
    axes = " x ".join(found["shared"]["searched"])
    print(f"{axes}: {found['shared']['candidates']} candidates in {found['shared']['seconds']:.1f} s")
    print(f"{'':<26}{'candidates/s':>14}{'merging each':>16}{'merging':>10}{'forward':>10}")
    for key, name in (("shared", "one search, shared"), ("without_reuse", "without reuse")):
        one = found[key]
        print(
            f"{name:<26}{one['candidates_per_second']:14.3f}{1000 * one['merging_seconds_each']:13.1f} ms"
            f"{100 * one['merging_share']:8.1f} %{100 * one['forward_share']:8.1f} %"
        )
    print(f"{'each in its own search':<26}{1 / found['seconds_alone']:14.3f}")
    print(
        f"reuse: {found['reuse_ratio']:.2f} times the candidates a second, merging "
        f"{found['reuse_ratio_of_merging']:.1f} times as fast; against searches of their own "
        f"{found['ratio_alone']:.2f} times (with loading)"
    )


def main(words: Sequence[str] | None = None) -> None:
    """Search in three ways, print the ratios, write the JSON."""
    cfg = chosen(DEFAULTS, words)
    one_of("device", cfg.device, TRAINERS)
    torch.set_num_threads(cfg.threads)
    with tempfile.TemporaryDirectory() as name, session() as console:
        console.quiet = True
        try:
            folder = Path(name)
            found: dict[str, Any] = {
                "shared": searched(cfg, folder, grid(cfg.points), keeps=True),
                "without_reuse": searched(cfg, folder, few(cfg, 0.0123), keeps=False),
                "seconds_alone": alone(cfg, folder),
            }
        except KnotsError as error:
            give_up(str(error))
    each = {way: 1 / found[way]["candidates_per_second"] for way in ("shared", "without_reuse")}
    merging = {way: found[way]["merging_seconds_each"] for way in ("shared", "without_reuse")}
    found["reuse_ratio"] = each["without_reuse"] / each["shared"]
    found["reuse_ratio_of_merging"] = merging["without_reuse"] / merging["shared"]
    found["ratio_alone"] = found["seconds_alone"] / each["shared"]
    show(found)
    write_results(Path(cfg.out), cfg, found)


if __name__ == "__main__":
    main()
