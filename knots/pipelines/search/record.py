"""What a search leaves behind: its record and its curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from knots.pipelines.merge import Outcome
from knots.pipelines.search.plan import SearchPlan
from knots.reporting.charts import search_curves
from knots.search import Found


def best_seed(seeds: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The seed with the largest value; the first of equal ones."""
    return max(seeds, key=lambda entry: float(entry["value"]))


def seed_record(seed: int, found: Found) -> dict[str, Any]:
    """What the search of one seed found, with all of its trials in order."""
    tried = [
        {"order": order, "options": dict(options), "value": value, "seed": seed}
        for order, (options, value) in enumerate(found.tried, start=1)
    ]
    return {
        "seed": seed,
        "chosen": dict(found.options),
        "value": found.value,
        "evaluations": found.evaluations,
        "edge": dict(found.edge),
        "trials": tried,
    }


def search_record(
    plan: SearchPlan, seeds: Sequence[Mapping[str, Any]], best: Outcome | None, tests: Mapping[int, Outcome]
) -> dict[str, Any]:
    """The content of `metrics.json`."""
    merge, chosen = plan.merge, best_seed(seeds)
    return {
        "schema": 1,
        "record": "search",
        "title": f"{plan.procedure.name} search for {merge.label} on {merge.model.name}, {merge.suite.name}",
        "model": merge.model.name,
        "suite": merge.suite.name,
        "method": merge.label,
        "protocol": plan.procedure.protocol,
        "procedure": plan.procedure.description,
        "mode": merge.scoring.mode,
        "metric": plan.procedure.metric,
        "split": merge.scoring.split,
        "searched": list(plan.searched),
        "chosen": {**chosen["chosen"], "seed": chosen["seed"]},
        "value": chosen["value"],
        "evaluations": sum(entry["evaluations"] for entry in seeds),
        "edge": chosen["edge"],
        "seeds": list(seeds),
        "test": _test_record(plan, best, tests),
        "figures": [{"file": "figures/search.png", "caption": _caption(plan)}],
        "notes": _notes(plan, chosen),
    }


def _caption(plan: SearchPlan) -> str:
    metric, split = plan.procedure.metric, plan.merge.scoring.split
    return (
        f"{metric} of every trial on the {split} split, against each option that was searched, and the best "
        "so far; the chosen one is marked"
    )


def curves(record: Mapping[str, Any]) -> Figure:
    """The search's curve."""
    trials = [trial for entry in record["seeds"] for trial in entry["trials"]]
    # One after the other, as they were run; each seed counts from 1.
    trials = [{**trial, "order": order} for order, trial in enumerate(trials, start=1)]
    ylabel = f"{record['metric']} on {record['split']} (%)"
    return search_curves(trials, title=record["title"], ylabel=ylabel, chosen=record["chosen"])


def _test_record(
    plan: SearchPlan, best: Outcome | None, tests: Mapping[int, Outcome]
) -> dict[str, Any] | None:
    """The chosen candidate on the test split, and the seeds' candidates beside it."""
    if best is None:
        return None
    metric = plan.procedure.metric
    values = {seed: _measured(outcome, metric) for seed, outcome in tests.items()}
    several = len(values) > 1
    return {
        "split": plan.test_split,
        "run": best.run.run_id,
        "value": _measured(best, metric),
        "runs": {str(seed): outcome.run.run_id for seed, outcome in tests.items()},
        "values": {str(seed): value for seed, value in values.items()},
        "mean": float(np.mean(list(values.values()))),
        "deviation": float(np.std(list(values.values()), ddof=1)) if several else None,
    }


def _measured(outcome: Outcome, metric: str) -> float:
    metrics = outcome.run.metrics
    return float(metrics["joint" if metric.startswith("hits@") else "average"][metric])


def _notes(plan: SearchPlan, chosen: Mapping[str, Any]) -> list[str]:
    edges = [f"{option} at its {end} end" for option, end in chosen["edge"].items() if end]
    notes = [f"the best is on the edge of what was searched: {', '.join(edges)}"] if edges else []
    if len(plan.seeds) > 1:
        notes.append(
            f"each of {len(plan.seeds)} seeds was searched by itself; the best on {plan.merge.scoring.split} "
            "is the paper's figure, mean and deviation over the seeds the fairer one"
        )
    return notes
