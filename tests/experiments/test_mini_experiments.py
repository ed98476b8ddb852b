"""Every experiment on the miniatures as a user types it, its numbers recomputed from the stored predictions.

With a part of the items, to save time. All share one output folder, as those of a user would, so that runs
and trials of one serve the next.
"""

from html import unescape
from itertools import combinations
from pathlib import Path

import pytest

from tests.experiments.conftest import TASKS
from tests.experiments.recomputing import check_printed, check_seeds, check_sheet, kept
from tests.experiments.rehearsing import type_command

pytestmark = pytest.mark.slow

SENTENCES = ("scenes", "comparisons", "quantifiers", "answers", "counts", "facts")
BOUNDS = ["Best single adapter", "Multi-task LoRA", "Fine-tuned"]
JOINT = ["Zero-shot", "Best single adapter", "Nearest-adapter router", "Multi-task LoRA", "Fine-tuned"]
PAPER = ["RegMean", "Task Arithmetic", "TIES", "DARE-TIES", "KnOTS-TIES", "KnOTS-DARE-TIES"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mini")


def fewer(tasks: tuple[str, ...]) -> str:
    """Overrides for fewer items of each task and fewer seeds of DARE's masks."""
    # Forward passes of the little language model take several times as long as those of the other one.
    sizes = {"test": 80, "validation": 32} if tasks == SENTENCES else {"test": 160, "validation": 48}
    items = (f"suite.tasks.{task}.sizes.{split}={n}" for task in tasks for split, n in sizes.items())
    return " ".join([*items, "search.seeds=[420,421]"])


def reproduced(place: Path, name: str, *arguments: str) -> tuple[str, dict]:
    """What one command prints, and the record that it keeps."""
    out = type_command(place, "reproduce.py", [f"experiment={name}", "logger=none", *arguments])
    record = kept(place / "outputs", name)
    for sheet in record["sheets"]:
        if sheet["name"] != f"{name}_differences":  # of tables, it is kept and not printed
            check_printed(out, sheet)
    for ending in ("txt", "md", "tex", "csv"):
        assert (record["folder"] / "tables" / f"{name}.{ending}").stat().st_size > 0
    assert record["figures"]
    return out, record


def check_table(place: Path, record: dict, rows: list[str]) -> None:
    sheet, costs, differences = record["sheets"]
    labels = [row["label"] for row in sheet["rows"] if "seeds" not in row["label"]]
    assert labels == [*rows, "minimal detectable difference"]
    assert check_sheet(place / "outputs", sheet) == len(rows) * len(sheet["columns"])
    assert check_seeds(place / "outputs", sheet) == sum("DARE" in row for row in rows)
    assert not [row["label"] for row in sheet["rows"] if row["missing"]]
    assert all(cell["ours"] > 0 for cell in sheet["rows"][-1]["cells"])
    methods = [row for row in rows if row not in ("Base (own heads)", *JOINT)]
    check_costs(place, costs, [row for row in methods if row != "Ensemble"])
    check_differences(sheet, differences, methods)


def check_costs(place: Path, costs: dict, merged: list[str]) -> None:
    assert [row["label"] for row in costs["rows"]] == merged
    assert costs["columns"][-1].endswith(", rank 8")
    assert check_sheet(place / "outputs", costs) == 3 * len(merged)


def check_differences(sheet: dict, differences: dict, methods: list[str]) -> None:
    values = {row["label"]: [cell["ours"] for cell in row["cells"]] for row in sheet["rows"]}
    assert [row["label"] for row in differences["rows"]] == [
        f"{b} - {a}" for a, b in combinations(methods, 2)
    ]
    for row in differences["rows"]:
        below, above = row["label"].split(" - ")
        gaps = [one - other for one, other in zip(values[below], values[above], strict=True)]
        assert [cell["ours"] for cell in row["cells"]] == pytest.approx(gaps)


@pytest.mark.parametrize(("name", "tasks", "rows"), [
    ("mini_table1", TASKS, ["Zero-shot", *BOUNDS, *PAPER]),
    ("mini_table2", TASKS, ["Zero-shot", *BOUNDS, *PAPER]),
    ("mini_table3", SENTENCES, ["Base (own heads)", *BOUNDS, *PAPER]),
    ("mini_table4", TASKS, [*JOINT, "Ensemble", *PAPER]),
    ("mini_table_a1", TASKS, [*BOUNDS, "Fisher", "RegMean", "Task Arithmetic", "TIES", "KnOTS-TIES"]),
    ("mini_variants", TASKS, [
        *("TIES", "TIES (TARA)", "KnOTS-TIES", "KnOTS-TIES (Core Space)", "KnOTS-TSV (Core Space)"),
        *("KnOTS-TIES (TARA)", "KnOTS-DARE-TIES", "KnOTS-DARE-TIES (TARA)"),
    ]),
    ("mini_rows_vs_columns", TASKS, ["TIES", "KnOTS-TIES", "KnOTS-TIES (rows)"]),
])  # fmt: skip
def test_every_number_of_a_table_is_that_of_the_stored_predictions(
    place: Path, name: str, tasks: tuple[str, ...], rows: list[str]
):
    _, record = reproduced(place, name, f"overrides={fewer(tasks)}")
    check_table(place, record, rows)


def test_a_table_that_is_there_is_shown_without_running_anything(place: Path):
    again = type_command(place, "reproduce.py", ["logger=none", f"overrides={fewer(TASKS)}"])
    assert "evaluating" not in again
    assert "KnOTS-DARE-TIES, mean of 2 seeds" in again


def test_a_card_of_claims_says_the_same_when_it_is_read_again(place: Path):
    """Two universes, few items, fine-tunes of few steps; no verdict is asked for."""
    few = [
        *("experiment.universes=[0,1]", "experiment.counts.subsets={2:1,4:1}"),
        f"overrides={fewer(TASKS)} finetune.steps=20 finetune.validate_every=20",
    ]
    out, record = reproduced(place, "mini_claims", *few)
    card, ranking, methods = record["sheets"]
    assert len(card["rows"]) == 10
    for row in card["rows"]:
        estimate, detectable, verdict = row["cells"]
        assert estimate["interval"][0] <= estimate["ours"] <= estimate["interval"][1]
        assert float(detectable["text"]) > 0
        assert verdict["text"] in out
    averages = {row["label"]: row["cells"][0]["ours"] for row in methods["rows"]}
    gap = averages["KnOTS-TIES"] - averages["TIES"]
    assert card["rows"][2]["cells"][0]["ours"] == pytest.approx(gap)
    assert "Kendall's tau-b" in ranking["notes"][0]
    again, same = reproduced(place, "mini_claims", *few)
    assert "evaluating" not in again
    assert same["sheets"] == record["sheets"]


def test_universes_stand_beside_each_other(place: Path):
    few = ["experiment.universes=[0,1]", "experiment.rows=[task_arithmetic,ties,knots_ties]"]
    _, record = reproduced(place, "mini_universes", *few, f"overrides={fewer(TASKS)}")
    means, differences, ranking = record["sheets"]
    labels = [row["label"] for row in means["rows"]]
    assert labels[::2] == ["Task Arithmetic", "TIES", "KnOTS-TIES", "minimal detectable difference"]
    assert len(differences["rows"]) == 3
    assert "Kendall's W" in ranking["notes"][0]


def test_one_page_shows_all_of_them(place: Path):
    type_command(place, "report.py", [])
    page = unescape((place / "outputs" / "report" / "report.html").read_text())
    for path in (place / "outputs").glob("mini_*"):
        assert kept(place / "outputs", path.name)["title"] in page
