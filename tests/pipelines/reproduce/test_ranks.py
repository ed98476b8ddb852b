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
from knots.finetuning.module import Finetuning
from knots.pipelines import MergePlan, merge, run_merge
from knots.pipelines.reproduce import rank_plan
from knots.pipelines.reproduce.experiment import Experiment
from knots.pipelines.reproduce.rank_plan import RanksPlan, parse_ranks
from knots.pipelines.reproduce.ranks import run_ranks
from knots.pipelines.reproduce.table_plan import Paper
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

    def make(
        place: str = "outputs", adapters: str | None = None, run: bool = True, **changes: Any
    ) -> RanksPlan:
        root = tmp_path / place
        own = {"mode": "per_task", "root": root / "merge", "suite": suite(), "scale": 0.5}
        known = {
            "experiment": Experiment("figure", "A figure", root, {}, run),
            "rows": {"ties": plan(space="full", **own), "knots_ties": plan(**own)},
            "ranks": RANKS,
            "adapters": adapters,
            "recipes": {} if adapters else {rank: replace(RECIPE, rank=rank) for rank in RANKS},
            "paper": None,
            "published": Published({}),
        }
        return RanksPlan(**{**known, **changes})

    return make


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often what was done: "evaluated", "trained"."""
    seen: Counter[str] = Counter()

    def count(name: str, module: Any, function: str) -> None:
        do = getattr(module, function)

        def counted(*given, **options):
            seen[name] += 1
            return do(*given, **options)

        monkeypatch.setattr(module, function, counted)

    count("evaluated", merge, "evaluate")
    count("trained", finetuning, "finetune")
    return seen


def rows_of(product):
    return {row.label: row.cells for row in product.sheets[0].rows}


def share(run: Path, task: str) -> float:
    """A task's accuracy, counted from the stored predictions."""
    table = pd.read_parquet(run / "predictions.parquet")
    mine = table[table["task"] == task]
    return sum(int(a) == int(b) for a, b in zip(mine["label"], mine["prediction"], strict=True)) / len(mine)


def test_adapters_are_trained_once_and_every_number_is_what_the_predictions_say(ranks, work, tmp_path):
    product = run_ranks(ranks(), QUIET)
    # Two ranks, two tasks; the base once, and at each rank the fine-tuned ones and two merges.
    assert work == {"trained": 4, "evaluated": 7}
    for rank in RANKS:
        for task in NAMES:
            adapter = load_adapter(tmp_path / "outputs" / "finetune" / f"tiny_rank_{rank}" / task)
            assert {update.rank for update in adapter.updates.values()} == {rank}
    rows = rows_of(product)
    assert list(rows) == ["Fine-tuned", "TIES", "KnOTS-TIES"]
    assert product.sheets[0].columns == ("rank 1", "rank 3")
    for at in range(2):
        finetuned = tmp_path / "outputs" / "merge" / rows["Fine-tuned"][at].run
        shares = [share(finetuned, task) for task in NAMES]
        assert rows["Fine-tuned"][at].ours == pytest.approx(100 * sum(shares) / 2)
        for label in ("TIES", "KnOTS-TIES"):
            cell = rows[label][at]
            folder = tmp_path / "outputs" / "merge" / cell.run
            ratios = [share(folder, task) / whole for task, whole in zip(NAMES, shares, strict=True)]
            assert cell.ours == pytest.approx(100 * sum(ratios) / 2)
            metrics = json.loads((folder / "metrics.json").read_text())
            assert list(cell.interval) == metrics["average"]["normalized_ci95"]
    assert {cell.run for cells in rows.values() for cell in cells} < set(product.runs)
    said = " ".join(product.sheets[0].notes)
    assert "trained by this project" in said
    assert "seed 420" in said
    assert "learning rate by rank 1: 0.01, 3: 0.01" in said
    again = run_ranks(ranks(), QUIET)
    assert work == {"trained": 4, "evaluated": 7}
    assert again.sheets == product.sheets


def test_a_run_is_the_one_that_merges_these_adapters(ranks, tmp_path):
    plan = ranks()
    rows = rows_of(run_ranks(plan, QUIET))
    for label, method in (("TIES", "ties"), ("KnOTS-TIES", "knots_ties")):
        for at, rank in enumerate(RANKS):
            row = plan.rows[method]
            place = f"{tmp_path}/outputs/finetune/tiny_rank_{rank}/{{task}}"
            alone = replace(row, model=replace(row.model, adapters=place), root=tmp_path / "alone")
            found = run_merge(alone).run
            assert found.run_id == rows[label][at].run
            here = tmp_path / "outputs" / "merge" / found.run_id / "metrics.json"
            assert json.loads(here.read_text()) == found.metrics


def test_a_training_that_was_stopped_goes_on_to_the_same_numbers(ranks, work, monkeypatch, caplog):
    step, steps = Finetuning.training_step, Counter()

    def stops(self, *given):
        steps["done"] += 1
        if steps["done"] == 12:  # the third training, after its first look at the validation split
            raise RuntimeError("killed")
        return step(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Finetuning, "training_step", stops)
        with pytest.raises(RuntimeError, match="killed"):
            run_ranks(ranks(), QUIET)
    assert work == {"trained": 3, "evaluated": 4}
    with caplog.at_level("INFO", logger="knots"):
        resumed = run_ranks(ranks(), QUIET)
    assert caplog.text.count("going on from step 2") == 1
    assert work == {"trained": 5, "evaluated": 7}
    undisturbed = run_ranks(ranks("other"), QUIET)
    assert resumed.sheets == undisturbed.sheets
    assert resumed.runs == undisturbed.runs


@pytest.fixture
def folders(tmp_path: Path) -> str:
    """Adapters of both ranks, trained elsewhere."""
    for rank in RANKS:
        for seed, task in enumerate(NAMES):
            tiny_adapter(tmp_path / f"rank_{rank}" / task, seed=seed, rank=rank)
    return f"{tmp_path}/rank_{{rank}}/{{task}}"


def test_adapters_may_be_loaded(ranks, folders, work):
    published = Published(
        {("fig4", "vit", "per_task", "ties", "normalized_accuracy", "rank_3"): Figure(58.6, "a digest", True)}
    )
    plan = ranks(adapters=folders, paper=Paper(("fig4",), "vit", "per_task"), published=published)
    product = run_ranks(plan, QUIET)
    assert work == {"evaluated": 7}
    first, last = rows_of(product)["TIES"]
    assert (first.published, last.published, last.second_hand) == (None, 58.6, True)
    assert last.difference == last.ours - 58.6
    assert product.sheets[0].notes[0] == f"adapters: {folders}, not trained here"
    assert set(product.pictures) == {"ranks"}


def test_a_rank_without_adapters_does_not_keep_the_others_from_it(ranks, folders):
    product = run_ranks(ranks(adapters=folders, ranks=(1, 2)), QUIET)
    here, absent = rows_of(product)["KnOTS-TIES"]
    assert here.ours is not None
    assert absent.ours is None
    assert "rank_2" in absent.note
    assert list(product.failures) == ["TIES, rank 2", "KnOTS-TIES, rank 2"]


def test_nothing_is_trained_where_only_what_is_there_is_asked_for(ranks, work, tmp_path):
    product = run_ranks(ranks(run=False), QUIET)
    assert not work
    assert not (tmp_path / "outputs").exists()
    assert {row.missing for row in product.sheets[0].rows} == {"not run"}
    made = run_ranks(ranks(), QUIET)
    assert run_ranks(ranks(run=False), QUIET).sheets == made.sheets


def test_adapters_of_another_recipe_are_not_taken_for_those_of_this_one(ranks, work, tmp_path):
    run_ranks(ranks(), QUIET)
    longer = {rank: replace(RECIPE, rank=rank, steps=4 if rank == 1 else 6) for rank in RANKS}
    product = run_ranks(ranks(recipes=longer), QUIET)
    assert work["trained"] == 4
    (reason,) = product.failures.values()
    assert "tiny_rank_3 holds adapters of another recipe (steps 4, now 6)" in reason
    assert [cell.ours is None for cell in rows_of(product)["TIES"]] == [False, True]


def composed(asked: list[list[str]]) -> Callable[..., Mapping[str, Any]]:
    """Stands for composing: notes what is asked for, and gives the recipe with its rank."""

    def compose(name: str, overrides: list[str]) -> Mapping[str, Any]:
        assert name == "finetune"
        asked.append(overrides)
        given = dict(override.partition("finetune.")[2].split("=") for override in overrides[1:])
        rate = float(given.get("learning_rate", 1e-3))
        values = {**vars(RECIPE), "rank": int(given["rank"]), "learning_rate": rate}
        return {"finetune": {**values, "modules": list(RECIPE.modules)}}

    return compose


VALUES = {
    "name": "figure",
    "kind": "ranks",
    "title": "A figure",
    "paper": None,
    "common": [],
    "rows": ["ties"],
    "settings": "published",
    "search": "reference",
    "ranks": [4, 768],
    "adapters": None,
    "training": {"recipe": ["finetune=lora"], "learning_rates": {768: 3e-5}},
}


def test_a_rank_s_recipe_is_that_of_its_rank(monkeypatch, plan, tmp_path):
    monkeypatch.setattr(rank_plan, "parse_methods", lambda *_: {"ties": plan(mode="per_task")})
    asked: list[list[str]] = []
    found = parse_ranks(Experiment("figure", "", tmp_path, {}), VALUES, composed(asked), Published({}))
    assert asked == [
        ["finetune=lora", "finetune.rank=4"],
        ["finetune=lora", "finetune.rank=768", "finetune.learning_rate=3e-05"],
    ]
    assert {rank: recipe.learning_rate for rank, recipe in found.recipes.items()} == {4: 1e-3, 768: 3e-5}
    assert found.place(768) == f"{tmp_path}/finetune/tiny_rank_768/{{task}}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": []}, r"experiment.ranks=\[\]; a list of whole numbers"),
        ({"ranks": [4, 4]}, r"experiment.ranks=\[4, 4\]; a rank is there twice"),
        ({"ranks": [0]}, r"experiment.ranks=0; a whole number of 1 or more"),
        ({"adapters": "here/{task}"}, r"experiment.adapters='here/\{task\}' has no \{rank\}"),
        ({"adapters": "here/{rank}"}, r"has no \{task\}"),
        ({"training": None}, r"experiment.training=None; give it, or experiment.adapters"),
        ({"training": {"recipes": []}}, r"unknown key of 'experiment.training' 'recipes'"),
        ({"rank": 4}, r"unknown key of 'experiment' 'rank'"),
    ],
)
def test_a_mistake_is_named(changes, message, tmp_path):
    experiment = Experiment("figure", "A figure", tmp_path, {})
    with pytest.raises(KnotsError, match=message):
        parse_ranks(experiment, {**VALUES, **changes}, composed([]), Published({}))
