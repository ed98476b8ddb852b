"""What a table's methods cost: size, time and memory of their merges, and what shorter merges still reach.

Costs are measured once for each run: they lie below the root of all runs under `costs/<run id>.json`, and are
read from there the next time. They are facts about one machine, so that no folder is named after them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from knots.analysis.costs import Cost, measure_cost
from knots.analysis.probes import ROUNDING, factor_change
from knots.files import write_whole
from knots.pipelines.bench import merger
from knots.pipelines.plans import MergePlan
from knots.pipelines.reproduce.experiment import NOT_RUN, Product, Runner
from knots.pipelines.reproduce.methods import Found, best_of, chosen_merge
from knots.pipelines.reproduce.table_plan import AVERAGE, TablePlan
from knots.pipelines.trainers import quiet_trainer
from knots.provenance import describe_device
from knots.reporting.comparison import Value, average, joint
from knots.reporting.sheets import Cell, Row, Sheet
from knots.reporting.units import amount, size_of, span
from knots.runs import Run, is_first_process

log = logging.getLogger(__name__)

FOLDER = "costs"

COLUMNS = ("output rank", "parameters", "merge time", "peak memory", "invariant to factor changes")


@dataclass(frozen=True)
class Measured:
    """What was measured of one merge.

    Attributes:
        cost: of making it.
        factor_change: see `knots.analysis.probes.factor_change`; None where the adapters have no factors.
        device: where.
    """

    cost: Cost
    factor_change: float | None
    device: str


def add_costs(plan: TablePlan, runner: Runner, found: Mapping[str, Found], product: Product) -> None:
    """Add the sheet of costs to a table's product; none where nothing is merged, or nothing was measured.

    Args:
        plan: the table.
        runner: runs shortened merges that are missing, and says whether anything is to be run.
        found: label of a row -> its run or search.
        product: the sheet goes there, and the runs of shortened merges.
    """
    rows, devices = [], []
    for row in plan.rows:
        if row.merge.kind != "merged" or row.label not in found:
            continue
        outcome = found[row.label]
        chosen, run = chosen_merge(row.plan, outcome), best_of(outcome).run
        measured = product.attempt(f"{row.label}, costs", partial(costs_of, chosen, run, runner))
        shortened = [_shortened(row.label, chosen, rank, runner, product) for rank in plan.max_ranks]
        reached = [_reached(some, chosen) for some in (run, *shortened)]
        rows.append(Row(row.label, (*_cells(measured), *reached), None if measured else NOT_RUN))
        devices += [measured.device] if measured is not None else []
    if devices:
        product.sheets.append(_sheet(plan, rows, devices))
        product.varying.add(product.sheets[-1].name)


def costs_of(plan: MergePlan, run: Run, runner: Runner) -> Measured | None:
    """What a run's merge costs: as it was measured, or measured now; None where nothing is to be run.

    In a job of several processes the first one measures.
    """
    path = plan.root.parent / FOLDER / f"{run.run_id}.json"
    known = None if plan.force and runner.experiment.run else _read(path)
    if known is not None or not runner.experiment.run or not is_first_process():
        return known
    log.info("%s: measuring what the merge costs", plan.label)
    measured = _measure(plan, runner)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(asdict(measured), indent=2) + "\n").encode())
    return measured


def _measure(plan: MergePlan, runner: Runner) -> Measured:
    shop = runner.shop(plan)
    device = quiet_trainer(plan.trainer).strategy.root_device
    merge = merger(plan, shop, device)
    has_factors = plan.model.updates != "full"
    return Measured(
        cost=measure_cost(shop.adapters, merge, device),
        factor_change=factor_change(shop.adapters, merge) if has_factors else None,
        device=describe_device(device),
    )


def _read(path: Path) -> Measured | None:
    """What was measured before; None where nothing was, or it cannot be read."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Measured(Cost(**values["cost"]), values["factor_change"], values["device"])
    return None


def _shortened(label: str, plan: MergePlan, rank: int, runner: Runner, product: Product) -> Run | None:
    """The run of a merge that is shortened to a rank; None where it is not there."""
    short = replace(plan, max_rank=rank, config={**plan.config, "max_rank": rank})
    outcome = product.attempt(f"{label}, rank {rank}", partial(runner.merge, short))
    if outcome is None:
        return None
    product.named(outcome.run)
    return outcome.run


def _reached(run: Run | None, plan: MergePlan) -> Cell:
    """The normalized average, or hits@1 jointly."""
    if run is None:
        return Cell()
    jointly = plan.scoring.mode == "joint"
    value: Value = joint(run.metrics, "hits@1") if jointly else average(run.metrics, "normalized")
    return Cell(value.percent, interval=value.interval, run=run.run_id)


def _cells(measured: Measured | None) -> list[Cell]:
    if measured is None:
        return [Cell()] * len(COLUMNS)
    cost, change = measured.cost, measured.factor_change
    invariant = "no factors" if change is None else invariance(change)
    return [
        Cell(float(cost.rank), text=str(cost.rank)),
        Cell(float(cost.parameters), text=amount(cost.parameters)),
        Cell(cost.seconds, text=span(cost.seconds)),
        Cell(float(cost.peak_bytes), text=size_of(cost.peak_bytes)),
        Cell(text=invariant),
    ]


def invariance(change: float) -> str:
    """Whether a merge keeps still under factor changes, and how far it moved."""
    if math.isnan(change):
        return "no (NaN)"
    return f"yes ({change:.0e})" if change < ROUNDING else f"no ({change:.2g})"


def _sheet(plan: TablePlan, rows: Iterable[Row], devices: Iterable[str]) -> Sheet:
    jointly = plan.rows[0].merge.scoring.mode == "joint"
    shown = "hits@1" if jointly else AVERAGE
    ranks = [f"{shown}, full", *(f"{shown}, rank {rank}" for rank in plan.max_ranks)]
    unit = "hits@1, %" if jointly else "average normalized accuracy, %"
    return Sheet(
        name=f"{plan.experiment.name}_costs",
        title=f"{plan.experiment.title}: costs, and {unit} of merges in full and shortened",
        columns=(*COLUMNS, *ranks),
        rows=tuple(rows),
        notes=_notes(devices),
    )


def _notes(devices: Iterable[str]) -> tuple[str, ...]:
    return (
        f"measured on: {'; '.join(dict.fromkeys(devices))}",
        "output rank: the largest of a module; parameters: numbers in the merged adapter, R (O + I) of "
        "factors, O I of a matrix",
        "time: median of five merges that take up to 2 s, else of one; memory: what the merge holds at most "
        "above what was held before; without what RegMean and Fisher look at beforehand",
        "invariant: largest relative change of a module's merge when every (B, A) becomes (B G, G^-1 A), G "
        f"random with condition number 10; yes below {ROUNDING:g}, for rounding may move "
        "single entries across a threshold",
    )
