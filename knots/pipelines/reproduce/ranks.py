"""Accuracy against the rank of the adapters (Figure 4 of the KnOTS paper, arXiv 2410.19735).

The adapters of every rank are loaded, or trained here by one recipe; then each method merges those of a rank.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from rich.console import Console

from knots.errors import KnotsError
from knots.files import write_whole
from knots.pipelines.reproduce.experiment import NOT_RUN, Picture, Product, Runner
from knots.pipelines.reproduce.methods import (
    Found,
    best_of,
    data_note,
    label_of,
    options_note,
    published_cell,
    run_method,
    search_note,
)
from knots.pipelines.reproduce.rank_plan import RanksPlan
from knots.pipelines.reproduce.training import train_missing
from knots.pipelines.search.plan import SearchPlan
from knots.reporting.charts import lines_with_bands
from knots.reporting.comparison import Value, average
from knots.reporting.sheets import Cell, Row, Sheet

log = logging.getLogger(__name__)

RECIPE = "recipe.json"
"""Beside the adapters of a rank: how they were trained."""

Key = tuple[str, int]
"""Method and rank."""


def run_ranks(plan: RanksPlan, console: Console) -> Product:
    """Train and merge what is missing, and draw every method against the rank.

    A rank or a method that fails does not keep the others from it.
    """
    product = Product()
    found: dict[Key, Found] = {}
    for rank in plan.ranks:
        if not product.attempt(f"adapters of rank {rank}", partial(have_adapters, plan, rank)):
            continue
        runner = Runner(plan.experiment, console)  # one a rank: what the last one shared goes with it
        for method, row in plan.rows.items():
            run = partial(run_method, runner, plan.row_at(row, rank))
            outcome = product.attempt(f"{label_of(method)}, rank {rank}", run)
            if outcome is not None:
                found[method, rank] = outcome
                product.took(best_of(outcome))
    product.sheets.append(_sheet(plan, found, product.failures))
    if found:
        product.pictures["ranks"] = _picture(plan, found)
    return product


def have_adapters(plan: RanksPlan, rank: int) -> bool:
    """Whether the adapters of a rank are there, after training those that are missing, if any are.

    Raises:
        KnotsError: some were trained by another recipe; or as `finetune_tasks`.
    """
    if plan.adapters is not None:
        return True
    folder, merge = plan.folder(rank), plan.first
    tasks = merge.suite.task_names
    _check_recipe(plan, rank)
    if all((folder / task / "adapter_config.json").is_file() for task in tasks):
        return True
    if not plan.experiment.run:
        return False
    log.info("rank %d: training %d adapters into %s", rank, len(tasks), folder)
    write_whole(folder / RECIPE, (json.dumps(_told(plan, rank), indent=2) + "\n").encode())
    train_missing(merge, plan.recipes[rank], folder, f"rank {rank}")
    return True


def _told(plan: RanksPlan, rank: int) -> dict[str, Any]:
    """What the adapters of a rank are trained from and how, as JSON gives it back."""
    model, recipe = plan.first.model, asdict(plan.recipes[rank])
    told = {"base": model.base, "revision": model.revision, **recipe}
    values: dict[str, Any] = json.loads(json.dumps(told))
    return values


def _check_recipe(plan: RanksPlan, rank: int) -> None:
    """Refuse to go on with the adapters of another recipe; those without one were trained elsewhere."""
    path = plan.folder(rank) / RECIPE
    if not path.is_file():
        return
    theirs, ours = json.loads(path.read_text(encoding="utf-8")), _told(plan, rank)
    other = [
        f"{key} {theirs.get(key)!r}, now {value!r}" for key, value in ours.items() if theirs.get(key) != value
    ]
    if other:
        raise KnotsError(
            f"{path.parent} holds adapters of another recipe ({'; '.join(other)}); delete it to train them "
            "anew, or name another place with paths.output_dir=..."
        )


def _sheet(plan: RanksPlan, found: Mapping[Key, Found], failures: Mapping[str, str]) -> Sheet:
    rows = [_finetuned_row(plan, found)]
    for method in plan.rows:
        cells = tuple(_cell(plan, method, rank, found, failures) for rank in plan.ranks)
        missing = None if any((method, rank) in found for rank in plan.ranks) else NOT_RUN
        rows.append(Row(label_of(method), cells, missing))
    return Sheet(
        name=plan.experiment.name,
        title=f"{plan.experiment.title}: normalized accuracy, %, average over tasks (fine-tuned: accuracy)",
        columns=tuple(f"rank {rank}" for rank in plan.ranks),
        rows=tuple(rows),
        notes=tuple(_notes(plan, found)),
    )


def _finetuned_row(plan: RanksPlan, found: Mapping[Key, Found]) -> Row:
    """What the merges of a rank are normalized by."""
    cells = []
    for rank in plan.ranks:
        outcomes = [best_of(outcome) for (_, its), outcome in found.items() if its == rank]
        cell = Cell()
        if outcomes:
            run = outcomes[0].baselines["finetuned"]
            value = average(run.metrics, "accuracy")
            cell = Cell(ours=value.percent, interval=value.interval, run=run.run_id)
        cells.append(cell)
    return Row("Fine-tuned", tuple(cells), None if found else NOT_RUN)


def _cell(
    plan: RanksPlan, method: str, rank: int, found: Mapping[Key, Found], failures: Mapping[str, str]
) -> Cell:
    where = {"method": method, "metric": "normalized_accuracy", "column": f"rank_{rank}"}
    cell = published_cell(plan.published, plan.paper, **where)
    if (method, rank) not in found:
        reasons = (failures.get(f"adapters of rank {rank}"), failures.get(f"{label_of(method)}, rank {rank}"))
        return replace(cell, note=next(filter(None, reasons), NOT_RUN))
    run = best_of(found[method, rank]).run
    value = average(run.metrics, "normalized")
    return replace(cell, ours=value.percent, interval=value.interval, run=run.run_id)


def _notes(plan: RanksPlan, found: Mapping[Key, Found]) -> list[str]:
    rows = list(plan.rows.values())
    searched = any(isinstance(row, SearchPlan) for row in rows)
    source = "searched at each rank" if searched else "the same at every rank, tuned for none of them"
    return [
        _origin(plan),
        f"{data_note(rows[0])} of the same rank",
        "intervals: paired bootstrap over items; they say nothing of other trainings",
        f"options are {source}",
        *search_note(rows),
        *(
            options_note(f"{label_of(method)}, rank {rank}", outcome)
            for (method, rank), outcome in found.items()
        ),
    ]


def _origin(plan: RanksPlan) -> str:
    """Who trained the adapters, and how."""
    if plan.adapters is not None:
        return f"adapters: {plan.adapters}, not trained here"
    own = [rank for rank in plan.ranks if (plan.folder(rank) / RECIPE).is_file()]
    recipe = plan.recipes[plan.ranks[0]]
    rates = ", ".join(f"{rank}: {plan.recipes[rank].learning_rate:g}" for rank in plan.ranks)
    told = (
        f"adapters trained by this project, one training a rank and task, seed {recipe.seed}: at most "
        f"{recipe.steps:,} steps of {recipe.batch_size} items, dropout {recipe.dropout:g}, modules "
        f"{', '.join(recipe.modules)}; learning rate by rank {rates}"
    )
    others = [str(rank) for rank in plan.ranks if rank not in own]
    return told + (f"; without a recipe beside them: those of rank {', '.join(others)}" if others else "")


def _picture(plan: RanksPlan, found: Mapping[Key, Found]) -> Picture:
    series = {}
    for method in plan.rows:
        values = {rank: _value(found[method, rank]) for rank in plan.ranks if (method, rank) in found}
        points = [
            (rank, value.percent, *(value.interval or (None, None)))
            for rank, value in values.items()
            if value.percent is not None
        ]
        if points:
            series[label_of(method)] = points
    figure = lines_with_bands(
        series,
        title=plan.experiment.title,
        xlabel="rank of the adapters",
        ylabel="normalized accuracy (%)",
        log=True,
        xticks=list(plan.ranks),
        remark="bands: 95 % bootstrap over items",
    )
    caption = (
        f"{plan.experiment.title}: normalized accuracy, average over {len(plan.first.suite.tasks)} tasks. "
        "Bands: 95 % intervals (paired bootstrap over items), which say nothing of other trainings."
    )
    return Picture(figure, caption)


def _value(outcome: Found) -> Value:
    return average(best_of(outcome).run.metrics, "normalized")
