"""Adapters of several ranks: trained once or loaded, and merged by each method."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from knots.adapters import load_adapter
from knots.errors import KnotsError
from knots.finetuning import run as finetuning
from knots.pipelines import MergePlan, merge, run_merge
from knots.pipelines.experiment import Experiment
from knots.pipelines.rank_plan import RanksPlan, parse_ranks
from knots.pipelines.ranks import run_ranks
from knots.pipelines.tables import Paper
from knots.reporting.published import Figure, Published
from knots.suites.tasks import Suite, parse_suite
from tests.finetuning.conftest import PLAN
from tests.miniatures import TASKS, tiny_adapter

Plans = Callable[..., MergePlan]

QUIET = Console(quiet=True)
NAMES = ("numbers", "patterns")
RANKS = (1, 3)
RECIPE = replace(PLAN, steps=4, validate_every=2, dropout=0.0)


def suite() -> Suite:
    """Two of the tiny tasks, with items to learn from."""
    sizes = {"train": 32, "validation": 24, "test": 30}
    source = {"kind": "noise", "seed": 0}
    tasks = {name: {**TASKS[name], "sizes": sizes, "source": source} for name in NAMES}
    return parse_suite({"name": "tiny", "modality": "vision", "tasks": tasks})


@pytest.fixture
def ranks(plan: Plans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RanksPlan]:
    """Makes experiments over two ranks, two tasks and two methods."""
    monkeypatch.setattr(merge, "save_figure", lambda *_: None)

    def make(place: str = "outputs", adapters: str | None = None, **changes: Any) -> RanksPlan:
        root = tmp_path / place
        trainer = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
        own = {"mode": "per_task", "root": root / "merge", "suite": suite(), "scale": 0.5}
        rows = {"ties": plan(space="full", **own, trainer=trainer), "knots_ties": plan(**own, trainer=trainer)}
        # Bars of evaluations are ours.
        rows = {name: replace(row, trainer={"accelerator": "cpu", "devices": 1}) for name, row in rows.items()}
        recipes = {} if adapters else {rank: replace(RECIPE, rank=rank) for rank in RANKS}
        known = {"experiment": Experiment("figure", "A figure", root, {}), "rows": rows, "ranks": RANKS}
        more = {"adapters": adapters, "recipes": recipes, "paper": None, "published": Published({})}
        return RanksPlan(**{**known, **more, **changes})

    return make
