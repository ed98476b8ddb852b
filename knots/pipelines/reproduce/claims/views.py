"""The claims card and what stands below it, as tables and a figure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from knots.analysis.statistics import Draws, detectable_by, rank_correlation
from knots.evaluation.intervals import DRAWS, LEVEL
from knots.pipelines.reproduce.claims.claims import CLAIMS, NEAR, Claim, published_value, verdict
from knots.pipelines.reproduce.claims.evidence import Evidence
from knots.pipelines.reproduce.claims.plan import ClaimsPlan
from knots.pipelines.reproduce.experiment import NOT_RUN, Picture
from knots.pipelines.reproduce.methods import data_note, label_of, published_cell, search_note
from knots.pipelines.reproduce.table_plan import AVERAGE
from knots.pipelines.reproduce.universes.views import cell_of
from knots.reporting.comparison import Value
from knots.reporting.forest import forest
from knots.reporting.sheets import Cell, Row, Sheet

COLUMNS = ("estimate", "detectable", "verdict")


def card(plan: ClaimsPlan, evidence: Evidence) -> Sheet:
    """A claim a row: estimate with its interval, the paper's own number, and the verdict."""
    return Sheet(
        name=plan.experiment.name,
        title=f"{plan.experiment.title}: points (CKA: hundredths); above 0 is as claimed",
        columns=COLUMNS,
        rows=tuple(_row(claim, plan, evidence) for claim in CLAIMS),
        notes=tuple(_notes(plan)),
        decimals=2,
        signed=True,
    )


def _row(claim: Claim, plan: ClaimsPlan, evidence: Evidence) -> Row:
    known = published_value(claim, plan)
    value, second_hand = known or (None, False)
    told = f"{claim.statement} ({claim.source}); estimate: {claim.contrast}"
    estimate = claim.measure(plan, evidence)
    if estimate is None or not np.isfinite(estimate.value):
        empty = Cell(published=value, second_hand=second_hand, note=told)
        return Row(claim.name, (empty, Cell(), Cell()), NOT_RUN)
    ours = cell_of(estimate)
    least = None if estimate.interval is None else 100 * detectable_by(estimate.interval)
    first = Cell(
        ours=ours.ours,
        published=value,
        second_hand=second_hand,
        interval=ours.interval,
        note=told,
        faint=value is not None and least is not None and abs(value) < least,
    )
    shown = Cell(text="-" if least is None else f"{least:.2f}")
    return Row(claim.name, (first, shown, Cell(text=verdict(claim, estimate))))


def _notes(plan: ClaimsPlan) -> Iterator[str]:
    listed, one = ", ".join(map(str, plan.universes)), len(plan.universes) == 1
    yield data_note(next(iter(plan.rows.values())))
    yield f"universes {listed}: sets of adapters that were trained independently"
    yield (
        f"intervals: paired bootstrap over items, {DRAWS:,} draws; a single universe says nothing of others"
        if one
        else f"intervals: hierarchical bootstrap, {DRAWS:,} draws of universes and items; of CKA, Student's "
        "over universes"
    )
    yield (
        "verdicts: same sign, opposite, or undecided where the interval holds 0; near zero: it lies within "
        f"{100 * NEAR:g} point of 0"
    )
    yield "detectable: the smallest true value that is found with a power of 80 % at a level of 5 %"
    yield "the joint claim is measured with the options that were found per task"
    yield from search_note(plan.rows.values())
    if plan.counts is not None:
        sizes = ", ".join(f"{len(some)} of {count} tasks" for count, some in plan.counts.subsets.items())
        yield f"numbers of tasks: subsets of {sizes}, with the options of all tasks; each scored on its own"
    if plan.ranks is not None:
        ranks = ", ".join(map(str, sorted(plan.ranks.rows)))
        yield f"ranks {ranks}: options searched at each; trainings of their own, taken as independent"


def ranking_sheet(plan: ClaimsPlan, evidence: Evidence) -> Sheet:
    """How the methods rank here and in the paper, and how well the two agree."""
    draws = evidence.averages
    assert draws is not None
    published = {m: _published_average(plan, m) for m in plan.rows if m in draws.predictors}
    known = {method: cell for method, cell in published.items() if cell.published is not None}
    rows = []
    for method, cell in published.items():
        ours = cell_of(draws.mean(method))
        both = Cell(ours.ours, cell.published, cell.second_hand, ours.interval)
        rows.append(Row(label_of(method), (both,)))
    return Sheet(
        name=f"{plan.experiment.name}_ranking",
        title=f"{plan.experiment.title}: normalized accuracy, %, here and published",
        columns=(AVERAGE,),
        rows=tuple(rows),
        notes=tuple(_agreement(draws, {m: float(cell.published or 0) for m, cell in known.items()})),
    )


def _published_average(plan: ClaimsPlan, method: str) -> Cell:
    where = {"method": method, "metric": "normalized_accuracy", "column": AVERAGE}
    return published_cell(plan.published, plan.paper, **where)


def _agreement(draws: Draws, published: dict[str, float]) -> Iterator[str]:
    """Rank correlations of the two rankings, whatever they are."""
    if len(published) < 3:
        yield f"published are {len(published)} of these methods: too few to compare rankings"
        return
    places = [draws.predictors.index(method) for method in published]
    theirs = list(published.values())
    tau, rho = rank_correlation(draws.values.mean(axis=0)[places].tolist(), theirs)
    drawn = draws.draws[np.isfinite(draws.draws[:, places]).all(axis=1)]
    taus = [rank_correlation(row[places].tolist(), theirs)[0] for row in drawn]
    low, high = np.nanquantile(taus, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    yield (
        f"rank correlation of {len(published)} methods with the published ranking: Kendall's tau-b "
        f"{tau:+.2f} (95 % of the draws: {low:+.2f} to {high:+.2f}), Spearman's rho {rho:+.2f}"
    )


def methods_sheet(plan: ClaimsPlan, evidence: Evidence) -> Sheet:
    """What the claims are made of: every method per task and jointly."""
    draws, joint = evidence.averages, evidence.joint
    assert draws is not None
    rows = []
    for method in plan.rows:
        if method not in draws.predictors:
            rows.append(Row(label_of(method), (Cell(), Cell()), NOT_RUN))
            continue
        together = cell_of(joint.mean(method)) if joint is not None else Cell()
        rows.append(Row(label_of(method), (cell_of(draws.mean(method)), together)))
    return Sheet(
        name=f"{plan.experiment.name}_methods",
        title=f"{plan.experiment.title}: normalized average and hits@1 over all labels, %",
        columns=(AVERAGE, "hits@1"),
        rows=tuple(rows),
        notes=("means over universes, with the options that were found per task",),
    )


def forest_picture(plan: ClaimsPlan, sheet: Sheet) -> Picture:
    """Every estimate with its interval, and the published numbers beside them."""
    estimates = {row.label: row.cells[0] for row in sheet.rows if row.cells[0].ours is not None}
    figure = forest(
        {label: Value(cell.ours, cell.interval) for label, cell in estimates.items()},
        published={label: cell.published for label, cell in estimates.items()},
        title=plan.experiment.title,
        xlabel="points, or hundredths of CKA (above 0: as claimed)",
    )
    caption = f"{plan.experiment.title}: estimates with 95 % intervals; crosses: published"
    return Picture(figure, caption)
