"""What a whole Table 1 costs: the miniature's is run and watched, the paper's own are counted.

    uv run benchmarks/table1.py                                 the whole miniature: about ten minutes
    uv run benchmarks/table1.py items=200                       200 items of each task and split: two minutes
    uv run benchmarks/table1.py items=200 images_per_second.vit_b_32=3000    with a rate that you measured
    uv run benchmarks/table1.py experiment=mini_table3 items=100 tables=[]   another table; nothing projected

The experiment runs in a new folder as `experiments/reproduce.py` runs it, with every part of its pipeline
watched by one clock: a moment counts for the innermost stage, so that stages add up to the whole. Before it
starts, configurations are composed, and data are drawn or tokenized as once on every machine.

Merging is every call of `knots.merge` for a candidate or a run, with what shortens its result. Told apart
from it are putting updates on the base and taking them off again; the merges that the table's sheet of costs
makes to measure them; and the merge of one small stand-in with which every plan is tried first.

Of the paper's tables nothing is run. What goes through their models is counted from the plans, and their
merges are timed here on random adapters of the same shapes. No rate of a real model is known here: give the
one you have measured (`images_per_second.<model>=`, of a language model its pairs); minutes at other rates
are examples.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from benchmarks._measuring import RESULTS, chosen, give_up, mistakes_in_one_line, one_of, write_results
from benchmarks._projection import EXAMPLES, projected
from benchmarks._stages import ATTACHING, FORWARD, MEASURING, MERGING, STAGES, WAITING, Stages
from benchmarks._work import Work, fewer_items, work_of
from experiments._arguments import quoted
from experiments._cli import CONF, plain
from experiments._compose import composer
from experiments._session import session
from experiments.reproduce import PUBLISHED
from knots.pipelines.needs import experiment_needs
from knots.pipelines.prefetch import fetch
from knots.pipelines.reproduce import parse_experiment, run_experiment
from knots.pipelines.reproduce.run import Reproduction
from knots.pipelines.reproduce.table_plan import TablePlan
from knots.reporting.published import load_published

DEFAULTS: dict[str, Any] = {
    "experiment": "mini_table1",
    "rows": None,
    "items": None,
    "device": "cpu",
    "threads": os.cpu_count(),
    "tables": ["table1", "table2", "table3"],
    "images_per_second": {},
    "overrides": "",
    "cache_dir": None,
    "out": str(RESULTS / "table1.json"),
}
TRAINERS = {"cpu": "cpu", "cuda": "gpu"}
LIMIT = 0.05
"""The share of the time that merging may take."""


def planned(cfg: Any, experiment: str, folder: Path, own: Sequence[str] = ()) -> Reproduction:
    """An experiment that is ready to run in a folder; a mistake in the options ends the program.

    Args:
        cfg: the options.
        experiment: its name.
        folder: where its runs go.
        own: further overrides of `conf/reproduce.yaml`.
    """
    places = [f"paths.output_dir={folder}", "logger=none", f"trainer={TRAINERS[cfg.device]}"]
    if cfg.cache_dir is not None:
        places.append(f"paths.cache_dir={cfg.cache_dir}")
    words = [quoted(word) for word in (f"experiment={experiment}", *places, *own)]
    with mistakes_in_one_line(), initialize_config_dir(str(CONF), version_base="1.3"):
        config = plain(compose("reproduce", words))
        reproduction = parse_experiment(config, composer(config), load_published(PUBLISHED))
    if not isinstance(reproduction.plan, TablePlan):
        give_up(f"experiment={experiment} is no table, which alone this benchmark counts")
    return reproduction


def run_whole(reproduction: Reproduction, device: str) -> tuple[Stages, int]:
    """Run an experiment and watch it; also the number of candidates that its searches scored."""
    for reason in fetch(experiment_needs(reproduction.plan)).values():
        give_up(reason)
    # A user's session, with its log files, but nothing on the terminal.
    with session() as console, Stages(device).watching() as stages:
        console.quiet = True
        done = run_experiment(reproduction, console)
    for label, reason in done.product.failures.items():
        give_up(f"{label} could not be run: {reason}")
    trials = (reproduction.experiment.root / "search" / ".trials").glob("*.jsonl")
    return stages, sum(len(path.read_text(encoding="utf-8").splitlines()) for path in trials)


def described(stages: Stages, work: Work, candidates: int) -> dict[str, Any]:
    """What was measured of a whole table, beside what its plan says."""
    total, unit = stages.total, stages.items["evaluation"]
    shares = {name: stages.seconds[name] / total for name in STAGES}
    merges = stages.calls["merge"]
    return {
        "seconds": total,
        "stages": {name: {"seconds": stages.seconds[name], "share": shares[name]} for name in STAGES},
        "passes": dict(stages.passes),
        "items": dict(stages.items),
        "candidates": candidates,
        "planned": {"items": dict(work.items), "passes": work.passes, "merges": work.merges.total()},
        "planned_for_rules": {"items": work.shown, "passes": work.shown_passes},
        "items_per_second": {
            "of forward passes": unit / stages.seconds[FORWARD],
            "of the whole": unit / total,
        },
        "merges": merges,
        "seconds_a_merge": stages.seconds[MERGING] / merges if merges else None,
        "merging_share": shares[MERGING],
        "merging_share_with_attaching": shares[MERGING] + shares[ATTACHING],
        "merging_share_with_measuring": shares[MERGING] + shares[ATTACHING] + shares[MEASURING],
        "waiting_share": shares[WAITING],
    }


def show_whole(name: str, found: Mapping[str, Any]) -> None:
    print(f"{name}: {found['seconds']:.1f} s")
    for stage, numbers in found["stages"].items():
        print(f"  {stage:<38}{numbers['seconds']:9.2f} s {100 * numbers['share']:6.2f} %")
    through, said = found["items"].get("evaluation", 0), sum(found["planned"]["items"].values())
    rates = found["items_per_second"]
    print(
        f"through the model: {through:,} items in {found['passes'].get('evaluation', 0):,} passes "
        f"(the plan says {said:,}); {rates['of forward passes']:,.0f} items/s in the passes, "
        f"{rates['of the whole']:,.0f} of the whole"
    )
    for purpose, items in found["planned"]["items"].items():
        print(f"  {purpose:<38}{items:12,} {100 * items / max(1, said):6.2f} %")
    print(f"{found['candidates']} candidates; {found['merges']} merges")
    kept = "kept" if found["merging_share"] <= LIMIT else "MISSED"
    print(
        f"merging: {100 * found['merging_share']:.2f} % of the time (at most {100 * LIMIT:g} %: {kept}); "
        f"{100 * found['merging_share_with_attaching']:.2f} % with putting updates on the base and off, "
        f"{100 * found['merging_share_with_measuring']:.2f} % with the sheet of costs too"
    )


def show_projection(name: str, found: Mapping[str, Any]) -> None:
    through = sum(found["items"].values()) + found["shown_to_rules"]
    print(f"{name} ({found['model']}): {through:,} {found['unit']} through the model")
    given = found["minutes_at_rate"]
    if given is not None:
        print(f"  at your {given['rate']:g} {found['unit']}/s: {given['minutes']:,.1f} minutes of passes")
    else:
        examples = ", ".join(
            f"{minutes:,.1f} at {float(rate):,g}/s"
            for rate, minutes in found["minutes_at_example_rates"].items()
        )
        print(f"  minutes of passes, at example rates that nobody measured: {examples}")
    merges, minutes = sum(found["merges"].values()), found["merge_minutes"]
    told = "not timed" if minutes is None else f"{minutes:,.1f} minutes on this machine's CPU or device"
    print(f"  {merges} merges at most, those of the sheet of costs too: {told}")
    for method, one in found["merge_seconds"].items():
        part = f"timed on {one['timed_layers']} of {one['layers']} layers"
        print(f"    {method:<22}{one['seconds']:9.2f} s a merge, {part}")


def whole_table(cfg: Any, folder: Path) -> Reproduction:
    """The table that is run, with as many items as the options say."""
    overrides = [cfg.overrides]
    if cfg["items"] is not None:
        alone = ["experiment.rows=[zero_shot]", f"overrides={cfg.overrides}"]
        suite = planned(cfg, cfg.experiment, folder, alone).plan.rows[0].merge.suite
        overrides += fewer_items(suite, cfg["items"])
    rows = [] if cfg.rows is None else [f"experiment.rows=[{','.join(cfg.rows)}]"]
    return planned(cfg, cfg.experiment, folder, [*rows, f"overrides={' '.join(overrides)}"])


def checked(cfg: Any) -> Any:
    """The options, once there is no mistake in their values; else the program ends."""
    one_of("device", cfg.device, TRAINERS)
    items = cfg["items"]
    if items is not None and (not isinstance(items, int) or items < 1):
        give_up(f"items={items}; a whole number above 0, or null for all, is needed")
    models = sorted(path.stem for path in (CONF / "model").glob("[!_]*.yaml"))
    for model, rate in cfg.images_per_second.items():
        one_of("images_per_second", model, models)
        if not isinstance(rate, int | float) or rate <= 0:
            give_up(f"images_per_second.{model}={rate}; a number above 0 is needed")
    return cfg


def main(words: Sequence[str] | None = None) -> None:
    """Run, count, print, write the JSON."""
    cfg = checked(chosen(DEFAULTS, words))
    torch.set_num_threads(cfg.threads)
    with tempfile.TemporaryDirectory() as name:
        whole = whole_table(cfg, Path(name))
        papers = {table: planned(cfg, table, Path(name)).plan for table in cfg.tables}
        stages, candidates = run_whole(whole, cfg.device)
    found = described(stages, work_of(whole.plan, candidates), candidates)
    show_whole(cfg.experiment, found)
    expected = {}
    for table, plan in papers.items():
        rate = cfg.images_per_second.get(plan.rows[0].merge.model.name)
        expected[table] = projected(plan, work_of(plan), rate, cfg.device)
        show_projection(table, expected[table])
    write_results(Path(cfg.out), cfg, {"whole": found, "projected": expected, "example_rates": EXAMPLES})


if __name__ == "__main__":
    main()
