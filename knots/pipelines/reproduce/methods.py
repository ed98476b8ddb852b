"""What tables and figures share: their methods, where options come from, what was published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from knots.errors import KnotsError
from knots.pipelines.merge import Outcome
from knots.pipelines.plans import BASELINES, MergePlan
from knots.pipelines.reproduce.experiment import Compose, Runner
from knots.pipelines.reproduce.table_plan import (
    LABELS,
    MethodPlan,
    Paper,
    merge_of,
    parse_row,
    parse_settings,
)
from knots.pipelines.search.plan import SearchPlan
from knots.pipelines.search.run import SearchOutcome
from knots.pipelines.values import names_of
from knots.reporting.published import Published
from knots.reporting.sheets import Cell

Found = Outcome | SearchOutcome

TELLING = ("single", "router")
"""Kinds of predictors whose runs note how adapters were chosen."""

METHOD_KEYS = ("common", "rows", "settings", "search")
"""What `parse_methods` reads."""


def parse_methods(
    values: Mapping[str, Any], compose: Compose, *, modes: Sequence[str] = ("per_task",)
) -> dict[str, MethodPlan]:
    """Each method's run over all tasks, or the search for its options.

    Args:
        values: plain values with the keys of `METHOD_KEYS`, as those of a table.
        compose: composes a method's configuration.
        modes: of the evaluation that are allowed.

    Raises:
        KnotsError: a name is unknown, a value has the wrong type, a method is a baseline, or another mode is
            asked for.
    """
    search = parse_settings(values)
    common = names_of("experiment.common", values["common"])
    methods = names_of("experiment.rows", values["rows"])
    if not methods:
        raise KnotsError("experiment.rows=[]; at least one method is needed, as [ties,knots_ties]")
    plans = {method: parse_row(method, common, search, compose) for method in methods}
    for method, plan in plans.items():
        merge = merge_of(plan)
        if not BASELINES[merge.kind]:
            raise KnotsError(f"experiment.rows: {method} is a baseline; name methods, as [ties,knots_ties]")
        if merge.scoring.mode not in modes:
            wanted = " or ".join(f"eval={mode}" for mode in modes)
            raise KnotsError(f"experiment.common: eval={merge.scoring.mode}; {wanted} is needed")
    return plans


def run_method(runner: Runner, plan: MethodPlan) -> Found | None:
    """Search or merge; None where it is not there and nothing is to be run."""
    return runner.search(plan) if isinstance(plan, SearchPlan) else runner.merge(plan)


def best_of(found: Found) -> Outcome:
    """The run, or the best of a search on the test split."""
    if isinstance(found, Outcome):
        return found
    assert found.best is not None
    return found.best


def chosen_merge(row: MethodPlan, found: Found) -> MergePlan:
    """The run of a method with its options: its own, or those that its search found."""
    if isinstance(row, MergePlan):
        return row
    metrics = best_of(found).run.metrics
    return row.tested({option: metrics["merge"][option] for option in row.searched}, metrics["seed"])


def label_of(method: str) -> str:
    """How a method is called in tables."""
    return LABELS.get(method, method)


def published_cell(
    published: Published, paper: Paper | None, *, method: str, metric: str, column: str
) -> Cell:
    """A cell with the published figure; an empty one where there is none."""
    if paper is None:
        return Cell()
    for table in paper.tables:
        figure = published.find(
            table=table,
            model=paper.model,
            setting=paper.setting,
            method=method,
            metric=metric,
            column=column,
        )
        if figure is not None:
            return Cell(published=figure.value, second_hand=figure.second_hand)
    return Cell()


def split_of(plan: MethodPlan) -> str:
    """Which split a method's numbers are of."""
    searched = plan.test_split if isinstance(plan, SearchPlan) else None
    return searched or merge_of(plan).scoring.split


def data_note(plan: MethodPlan) -> str:
    """Split, items, protocol, and what accuracies are normalized by, where they are."""
    merge, split = merge_of(plan), split_of(plan)
    items = sum(task.size(split) for task in merge.suite.tasks)
    told = f"{split} split of {merge.suite.name}, {items:,} items; protocol {merge.scoring.protocol}"
    if merge.scoring.mode == "joint":
        return told
    return f"{told}; normalized by the {merge.scoring.normalize_by} fine-tuned accuracies"


def search_note(plans: Iterable[MethodPlan]) -> list[str]:
    """How options were searched, where they were."""
    searched = [plan for plan in plans if isinstance(plan, SearchPlan)]
    if not searched:
        return []
    split, procedure = searched[0].merge.scoring.split, searched[0].procedure
    return [
        f"options with a number of evaluations: {procedure.name} search on the {split} split, "
        f"largest {procedure.metric}"
    ]


def options_note(label: str, found: Found) -> str:
    """With which options a method was run, where they come from, and which run it is."""
    run = best_of(found).run
    merge = run.metrics["merge"]
    words = [f"scale {merge['scale']:g}"] if merge.get("scale") is not None else []
    trims = merge.get("rule") == "ties" and (not merge["drop"] or merge.get("dare_after") == "trim")
    words += [f"density {merge['density']:g}"] if trims else []
    words += [f"drop {merge['drop']:g}", f"seed {run.metrics['seed']}"] if merge.get("drop") else []
    told = [", ".join(words), *(run.metrics["notes"] if merge["kind"] in TELLING else ())]
    if isinstance(found, SearchOutcome):
        record = found.run.metrics
        edges = [f"{option} {end}" for option, end in record["edge"].items() if end]
        told += [f"{record['evaluations']} evaluations", f"on the edge: {', '.join(edges) or 'no'}"]
    elif words:
        told.append(merge["source"] or "neutral options, not tuned")
    return f"{label}: {'; '.join(filter(None, [*told, f'run {run.run_id}']))}"
