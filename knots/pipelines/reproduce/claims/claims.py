"""The claims, one a row: what the paper says, how it is measured here, and what was published.

Every estimate is signed so that a claim which holds is above 0; one claim says that a gain is near 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from knots.analysis.statistics import Draws, Estimate, drawn_estimate, mean_of_units
from knots.pipelines.reproduce.claims.evidence import Evidence, large, part
from knots.pipelines.reproduce.claims.plan import ClaimsPlan
from knots.pipelines.reproduce.methods import published_cell
from knots.pipelines.reproduce.table_plan import AVERAGE
from knots.pipelines.reproduce.universes.views import number_at

NEAR = 0.01
"""What counts as near 0: one point."""

SAME, OPPOSITE, UNDECIDED = "same sign", "opposite", "undecided"
NEAR_ZERO, NOT_NEAR = "near zero", "not near zero"

Measure = Callable[[ClaimsPlan, Evidence], "Estimate | None"]


@dataclass(frozen=True)
class Term:
    """A published figure with its weight."""

    weight: float
    method: str
    column: str = AVERAGE
    metric: str = "normalized_accuracy"
    setting: str = "per_task"


def _gap(first: str, second: str, **where: str) -> tuple[Term, ...]:
    return Term(1.0, first, **where), Term(-1.0, second, **where)


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes:
        name: short, for figures.
        statement: what is claimed.
        source: where in the paper.
        contrast: what the estimate is, in words.
        measure: gives the estimate as a fraction; None where what it needs was not run.
        published: of which published figures, each with its weight, the paper's own number is made.
        near: the claim is that the estimate is near 0.
    """

    name: str
    statement: str
    source: str
    contrast: str
    measure: Measure
    published: Sequence[Term] = ()
    near: bool = False


def verdict(claim: Claim, estimate: Estimate) -> str:
    """What the interval leaves: it has one sign, or the other, or both."""
    if estimate.interval is None:
        return UNDECIDED
    low, high = estimate.interval
    if claim.near:
        inside, outside = low >= -NEAR and high <= NEAR, low > NEAR or high < -NEAR
        return NEAR_ZERO if inside else NOT_NEAR if outside else UNDECIDED
    return SAME if low > 0 else OPPOSITE if high < 0 else UNDECIDED


def published_value(claim: Claim, plan: ClaimsPlan) -> tuple[float, bool] | None:
    """The paper's number in points, and whether part of it is second-hand; None where it is not known."""
    if not claim.published or plan.paper is None:
        return None
    total, second_hand = 0.0, False
    for term in claim.published:
        paper = replace(plan.paper, setting=term.setting)
        where = {"method": term.method, "metric": term.metric, "column": term.column}
        cell = published_cell(plan.published, paper, **where)
        if cell.published is None:
            return None
        total, second_hand = total + term.weight * cell.published, second_hand or cell.second_hand
    return total, second_hand


def _averages(weights: Mapping[str, float]) -> Measure:
    """A contrast of normalized averages."""
    return lambda _, evidence: _contrast(evidence.averages, weights)


def _contrast(draws: Draws | None, weights: Mapping[str, float]) -> Estimate | None:
    if draws is None or any(name not in draws.predictors for name in weights):
        return None
    return draws.contrast(weights)


def _cka(first: str, second: str) -> Measure:
    """A difference of mean CKA between two panels."""

    def measure(_: ClaimsPlan, evidence: Evidence) -> Estimate | None:
        runs = list(evidence.similar.values())
        if not runs or set(evidence.similar) != set(evidence.universes):
            return None
        if any(name not in run.metrics["panels"] for run in runs for name in (first, second)):
            return None
        gaps = [_mean_cka(run, first) - _mean_cka(run, second) for run in runs]
        return mean_of_units(gaps)

    return measure


def _mean_cka(run: Any, panel: str) -> float:
    return number_at(run, ("panels", panel, "mean_off_diagonal"))


def _lowest_rank(plan: ClaimsPlan, evidence: Evidence) -> Estimate | None:
    """The gain of aligning at the lowest rank, less that at the highest: trainings that share nothing."""
    if plan.ranks is None:
        return None
    ranks = sorted(plan.ranks.rows)
    lowest, highest = evidence.at_rank(ranks[0]), evidence.at_rank(ranks[-1])
    gain = {"knots_ties": 1.0, "ties": -1.0}
    first, second = _contrast(lowest, gain), _contrast(highest, gain)
    if first is None or second is None or lowest is None or highest is None:
        return None
    drawn = lowest.drawn(gain) - highest.drawn(gain)
    return drawn_estimate(first.value - second.value, drawn)


def _beyond_two(plan: ClaimsPlan, evidence: Evidence) -> Estimate | None:
    """The gain of aligning with more than two tasks, less that with two; means over subsets."""
    if plan.counts is None:
        return None
    weights: dict[str, float] = {}
    counts = {**plan.counts.subsets, len(plan.first.suite.tasks): ()}
    more = [count for count in counts if count > min(counts)]
    for count, subsets in counts.items():
        share = -1.0 if count not in more else 1.0 / len(more)
        names = [
            [part(method, subset) for subset in subsets] or [method] for method in ("knots_ties", "ties")
        ]
        for sign, some in zip((1.0, -1.0), names, strict=True):
            weights |= {name: sign * share / len(some) for name in some}
    return _contrast(evidence.averages, weights)


def _ensemble_worst(_: ClaimsPlan, evidence: Evidence) -> Estimate | None:
    """The worst merge less the ensemble, jointly."""
    draws = evidence.joint
    if draws is None or "ensemble" not in draws.predictors or len(draws.predictors) < 2:
        return None
    place = draws.predictors.index("ensemble")
    others = [k for k in range(len(draws.predictors)) if k != place]
    means = draws.values.mean(axis=0)
    value = float(means[others].min() - means[place])
    return drawn_estimate(value, draws.draws[:, others].min(axis=1) - draws.draws[:, place])


CLAIMS: Sequence[Claim] = (
    Claim(
        "CKA: full above LoRA",
        "the updates of LoRA fine-tunes are less alike than those of full fine-tunes",
        "Figure 2",
        "mean CKA of two tasks, full fine-tunes - LoRA, in hundredths",
        _cka("full", "lora"),
    ),
    Claim(
        "CKA: KnOTS above LoRA",
        "in the basis of KnOTS the updates are more alike than before",
        "Figure 2",
        "mean CKA of two tasks, KnOTS basis - LoRA, in hundredths",
        _cka("knots", "lora"),
    ),
    Claim(
        "KnOTS-TIES above TIES",
        "aligning before TIES gives a better merge",
        "Table 1",
        "KnOTS-TIES - TIES",
        _averages({"knots_ties": 1.0, "ties": -1.0}),
        _gap("knots_ties", "ties"),
    ),
    Claim(
        "with DARE: near zero",
        "with DARE there is next to nothing to gain by aligning",
        "Table 1",
        "KnOTS-DARE-TIES - DARE-TIES",
        _averages({"knots_dare_ties": 1.0, "dare_ties": -1.0}),
        _gap("knots_dare_ties", "dare_ties"),
        near=True,
    ),
    Claim(
        "columns above rows",
        "updates are to be concatenated by columns, not by rows",
        "section 5.4",
        "KnOTS-TIES by columns - by rows",
        _averages({"knots_ties": 1.0, "knots_rows_ties": -1.0}),
        _gap("knots_ties", "knots_rows_ties"),
    ),
    Claim(
        "gain largest at lowest rank",
        "the gain of aligning is largest for adapters of the lowest rank",
        "Figure 4",
        "(KnOTS-TIES - TIES) at the lowest rank - at the highest",
        _lowest_rank,
        (
            *_gap("knots_ties", "ties", column="rank_4"),
            *_gap("ties", "knots_ties"),
        ),
    ),
    Claim(
        "gain beyond two tasks",
        "the gain of aligning shows where more than two tasks are merged",
        "Figure 3",
        "(KnOTS-TIES - TIES) with more than two tasks - with two",
        _beyond_two,
    ),
    Claim(
        "ensemble worst jointly",
        "over all labels the ensemble is worse than every merge",
        "Table 4",
        "hits@1 of the worst merge - of the ensemble",
        _ensemble_worst,
        _gap("ties", "ensemble", metric="hits@1", setting="joint"),
    ),
    Claim(
        "RegMean below TA",
        "RegMean is worse than task arithmetic",
        "Table 1",
        "Task Arithmetic - RegMean",
        _averages({"task_arithmetic": 1.0, "regmean": -1.0}),
        _gap("task_arithmetic", "regmean"),
    ),
    Claim(
        "collapse at large scales",
        "a merge that is scaled too much is worth nothing",
        "the search for scales",
        "Task Arithmetic at its own scale - at a large one",
        _averages({"task_arithmetic": 1.0, large("task_arithmetic"): -1.0}),
    ),
)
