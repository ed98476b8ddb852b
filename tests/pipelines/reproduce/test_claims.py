"""The claims card: every estimate is what the stored predictions say, and verdicts follow from intervals."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from knots.analysis.statistics import Estimate
from knots.errors import KnotsError
from knots.pipelines import MergePlan, merge
from knots.pipelines.merge import finished_run
from knots.pipelines.model_plan import ModelPlan
from knots.pipelines.reproduce.claims import ClaimsPlan, run_claims
from knots.pipelines.reproduce.claims.claims import CLAIMS, Claim, published_value, verdict
from knots.pipelines.reproduce.claims.evidence import Evidence
from knots.pipelines.reproduce.claims.plan import CountsPart, RanksPart
from knots.pipelines.reproduce.experiment import Experiment, Runner
from knots.pipelines.reproduce.subsets import merge_some
from knots.pipelines.reproduce.table_plan import Paper
from knots.pipelines.reproduce.universes import in_universe
from knots.reporting.published import Published, load_published
from tests.miniatures import tiny_adapter, tiny_suite

ROOT = Path(__file__).resolve().parents[3]
QUIET = Console(quiet=True)
UNIVERSES = (0, 1, 2)
TASKS = tiny_suite().task_names
PAIR = TASKS[:2]
METHODS: dict[str, dict[str, Any]] = {
    "task_arithmetic": {"space": "full", "rule": "sum", "density": 1.0},
    "ties": {"space": "full"},
    "knots_ties": {},
    "knots_rows_ties": {"space": "knots_rows"},
    "ensemble": {"kind": "ensemble"},
}
BY_NAME = {claim.name: claim for claim in CLAIMS}


@pytest.fixture(scope="module")
def several(model: ModelPlan, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model's configuration with three sets of adapters of two ranks."""
    folder = tmp_path_factory.mktemp("sets")
    for rank in (1, 4):
        for universe in UNIVERSES:
            for place, task in enumerate(TASKS):
                tiny_adapter(folder / f"rank_{rank}" / str(universe) / task, 10 * universe + place, rank)
    known = {
        key: value for key, value in asdict(model).items() if key in ("name", "family", "base", "revision")
    }
    return {**known, "adapters": f"{folder}/rank_4/{{universe}}/{{task}}", "universes": 3}


@pytest.fixture
def claims(
    plan: Callable[..., MergePlan], several: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ClaimsPlan]:
    """Makes cards over three universes, five methods, two ranks and one pair of tasks."""
    monkeypatch.setattr(merge, "save_figure", lambda *_: None)

    def row(method: str, mode: str = "all", adapters: str | None = None) -> MergePlan:
        config = {"merge": {}, "model": several, "adapters": adapters}
        options = {"scale": 0.5, "density": 0.6} if method != "ensemble" else {}
        return in_universe(plan(mode=mode, config=config, **{**options, **METHODS[method]}), 0)

    def make(run: bool = True, **changes: Any) -> ClaimsPlan:
        place = several["adapters"].replace("rank_4", "rank_1")
        low = {method: row(method, "per_task", place) for method in ("ties", "knots_ties")}
        high = {method: row(method, "per_task") for method in ("ties", "knots_ties")}
        known = {
            "experiment": Experiment("claims", "Claims", tmp_path / "outputs", {}, run),
            "rows": {method: row(method) for method in METHODS},
            "universes": UNIVERSES,
            "training": None,
            "similarity": None,
            "ranks": RanksPart({1: low, 4: high}),
            "counts": CountsPart(("ties", "knots_ties"), {2: (PAIR,)}),
            "large_scale": 20.0,
            "paper": Paper(("1", "4", "fig4"), "vit_b_32", "per_task"),
            "published": load_published(ROOT / "benchmarks" / "published.csv"),
        }
        return ClaimsPlan(**{**known, **changes})

    return make


def average(plan: ClaimsPlan, row: MergePlan, universe: int, subset: tuple[str, ...] = TASKS) -> float:
    """A run's normalized average in percent, counted from its predictions and the fine-tuned ones."""
    runner = Runner(replace(plan.experiment, run=False), QUIET)
    row = in_universe(row, universe)
    outcome = runner.merge(row)
    part = merge_some(row, subset)
    run = outcome.run if subset == TASKS else finished_run(part, runner.shop(part))
    ratios = []
    for task in subset:
        ours, whole = (
            (rows.label == rows.prediction).mean()
            for rows in (
                table[table.task == task]
                for table in (run.predictions(), outcome.baselines["finetuned"].predictions())
            )
        )
        ratios.append(ours / whole)
    return float(100 * np.mean(ratios))


def over_universes(plan: ClaimsPlan, row: MergePlan, subset: tuple[str, ...] = TASKS) -> float:
    return float(np.mean([average(plan, row, universe, subset) for universe in UNIVERSES]))


def test_every_estimate_is_what_the_predictions_say_now_and_when_it_is_read_again(claims, monkeypatch):
    plan = claims()
    product = run_claims(plan, QUIET)
    assert not product.failures
    card, ranking, methods = product.sheets
    found = {row.label: row.cells for row in card.rows}
    mean = {m: over_universes(plan, row) for m, row in plan.rows.items()}

    assert found["KnOTS-TIES above TIES"][0].ours == pytest.approx(mean["knots_ties"] - mean["ties"])
    assert found["columns above rows"][0].ours == pytest.approx(mean["knots_ties"] - mean["knots_rows_ties"])

    arithmetic = plan.rows["task_arithmetic"]
    large = replace(arithmetic, options={**arithmetic.options, "scale": 20.0})
    assert found["collapse at large scales"][0].ours == pytest.approx(
        mean["task_arithmetic"] - over_universes(plan, large)
    )

    gains = {
        rank: over_universes(plan, rows["knots_ties"]) - over_universes(plan, rows["ties"])
        for rank, rows in plan.ranks.rows.items()
    }
    assert found["gain largest at lowest rank"][0].ours == pytest.approx(gains[1] - gains[4])

    pair = {m: over_universes(plan, plan.rows[m], PAIR) for m in ("ties", "knots_ties")}
    assert found["gain beyond two tasks"][0].ours == pytest.approx(
        mean["knots_ties"] - mean["ties"] - (pair["knots_ties"] - pair["ties"])
    )

    hits = {row.label: row.cells[1].ours for row in methods.rows}
    worst = min(value for label, value in hits.items() if label != "Ensemble")
    assert found["ensemble worst jointly"][0].ours == pytest.approx(worst - hits["Ensemble"])

    missing = {row.label: row.missing for row in card.rows if row.missing}
    assert set(missing) == {
        "CKA: full above LoRA",
        "CKA: KnOTS above LoRA",
        "with DARE: near zero",
        "RegMean below TA",
    }
    for cells in found.values():
        if cells[0].ours is not None:
            assert cells[0].interval[0] <= cells[0].ours <= cells[0].interval[1]

    ours, theirs = zip(
        *((r.cells[0].ours, r.cells[0].published) for r in ranking.rows if r.cells[0].published), strict=True
    )
    tau, rho = stats.kendalltau(ours, theirs).statistic, stats.spearmanr(ours, theirs).statistic
    assert f"tau-b {tau:+.2f}" in ranking.notes[0]
    assert f"rho {rho:+.2f}" in ranking.notes[0]
    assert list(product.pictures) == ["claims"]

    monkeypatch.setattr(merge, "evaluate", None)
    assert run_claims(claims(run=False), QUIET).sheets == product.sheets


def test_a_card_of_nothing_says_so(claims):
    product = run_claims(claims(run=False), QUIET)
    (card,) = product.sheets
    assert {row.missing for row in card.rows} == {"not run"}
    assert card.rows[2].cells[0].published == pytest.approx(4.3)


def test_a_method_that_fails_takes_only_its_claims_with_it(claims):
    plan = claims(ranks=None, counts=None, large_scale=None)
    broken = replace(plan.rows["knots_rows_ties"], options={**plan.rows["ties"].options, "density": 7.0})
    product = run_claims(replace(plan, rows={**plan.rows, "knots_rows_ties": broken}), QUIET)
    rows = {row.label: row for row in product.sheets[0].rows}
    assert rows["columns above rows"].missing == "not run"
    assert rows["KnOTS-TIES above TIES"].missing is None
    assert all("rows" in label for label in product.failures)


@pytest.mark.parametrize(
    ("interval", "near", "expected"),
    [
        ((0.1, 0.3), False, "same sign"),
        ((-0.3, -0.1), False, "opposite"),
        ((-0.1, 0.3), False, "undecided"),
        ((0.0, 0.3), False, "undecided"),
        (None, False, "undecided"),
        ((-0.005, 0.008), True, "near zero"),
        ((0.011, 0.02), True, "not near zero"),
        ((-0.03, -0.02), True, "not near zero"),
        ((-0.005, 0.02), True, "undecided"),
    ],
)
def test_verdicts(interval, near, expected):
    claim = Claim("c", "", "", "", lambda *_: None, near=near)
    assert verdict(claim, Estimate(0.0, interval, None, None)) == expected


def test_published_numbers_are_those_of_the_file(claims):
    plan = claims()
    values = {name: published_value(claim, plan) for name, claim in BY_NAME.items()}
    known = {name: round(value[0], 2) for name, value in values.items() if value}
    assert known == {
        "KnOTS-TIES above TIES": 4.3,
        "with DARE: near zero": 0.2,
        "columns above rows": 2.6,
        "gain largest at lowest rank": 1.7,
        "ensemble worst jointly": 2.9,
        "RegMean below TA": 2.8,
    }
    assert all(published_value(c, replace(plan, published=Published({}))) is None for c in CLAIMS)


def test_claims_about_cka_are_students_over_universes():
    def record(full: float, lora: float, knots: float) -> SimpleNamespace:
        panels = {"full": full, "lora": lora, "knots": knots}
        return SimpleNamespace(metrics={"panels": {k: {"mean_off_diagonal": v} for k, v in panels.items()}})

    runs = {0: record(0.7, 0.3, 0.5), 1: record(0.6, 0.35, 0.6), 2: record(0.65, 0.3, 0.55)}
    evidence = Evidence(UNIVERSES, similar=runs)  # type: ignore[arg-type]
    found = BY_NAME["CKA: full above LoRA"].measure(None, evidence)  # type: ignore[arg-type]
    gaps = [0.4, 0.25, 0.35]
    assert found.value == pytest.approx(np.mean(gaps))
    assert found.interval == pytest.approx(tuple(stats.ttest_1samp(gaps, 0).confidence_interval()))
    part = Evidence(UNIVERSES, similar={0: runs[0]})  # type: ignore[arg-type]
    assert BY_NAME["CKA: KnOTS above LoRA"].measure(None, part) is None  # type: ignore[arg-type]


def test_a_universe_that_is_not_there_is_refused(claims):
    with pytest.raises(KnotsError, match="universes 0 to 2"):
        in_universe(claims().rows["ties"], 5)
