"""The file of published figures: what it holds, and what it may not hold."""

from pathlib import Path

import pytest
import yaml

from knots.errors import KnotsError
from knots.reporting.published import COLUMNS, Figure, Published, load_published

ROOT = Path(__file__).resolve().parents[2]
SUITES = {"vit_b_32": "vision8", "vit_l_14": "vision8", "llama3_8b": "nli6"}
HEADER = ",".join(COLUMNS)
GOOD = "1,vit_b_32,per_task,ties,accuracy,dtd,58.3,a source,true"


@pytest.fixture(scope="module")
def published() -> Published:
    return load_published(ROOT / "benchmarks" / "published.csv")


def task_names(suite: str) -> set[str]:
    return {path.stem for path in (ROOT / "conf" / "task" / suite).glob("[!_]*.yaml")}


def test_columns_are_tasks_of_the_suite_or_averages(published: Published):
    for table, model, _, _, _, column in published.figures:
        if not column.startswith("rank_"):
            assert column in task_names(SUITES[model]) | {"average"}, (table, model, column)


def test_only_the_official_code_is_first_hand(published: Published):
    for figure in published.figures.values():
        assert figure.second_hand != figure.source.startswith("official code"), figure
        assert 0 < figure.value <= 100


def test_every_row_of_the_reference_data_is_there(published: Published, shared: Path):
    import csv

    with (shared / "paper" / "published.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 50
    for row in rows:
        column = {"cars": "stanford_cars"}.get(row["column"], row["column"])
        keys = {key: row[key] for key in ("table", "model", "setting", "method", "metric")}
        figure = published.find(**keys, column=column)
        assert figure is not None
        assert (figure.value, figure.source) == (float(row["value"]), row["source"])


@pytest.mark.parametrize(("model", "table"), [("vit_b_32", "1"), ("vit_l_14", "2"), ("llama3_8b", "3")])
def test_the_fine_tuned_accuracies_are_those_of_the_tasks_files(published: Published, model: str, table: str):
    for path in (ROOT / "conf" / "task" / SUITES[model]).glob("[!_]*.yaml"):
        expected = yaml.safe_load(path.read_text())["published"][model]
        figure = published.find(
            table=table,
            model=model,
            setting="per_task",
            method="finetuned",
            metric="accuracy",
            column=path.stem,
        )
        assert figure is not None
        assert figure.value == pytest.approx(expected, abs=0.0051)


def test_the_one_full_row_has_its_average(published: Published):
    def value(column: str) -> Figure | None:
        return published.find(
            table="1",
            model="vit_b_32",
            setting="per_task",
            method="knots_ties",
            metric="normalized_accuracy",
            column=column,
        )

    tasks = [value(task) for task in sorted(task_names("vision8"))]
    average = value("average")
    assert average == Figure(68.0, "Iso-Merging (arXiv 2502.04959) Table 2", True)
    assert sum(figure.value for figure in tasks) / len(tasks) == pytest.approx(average.value, abs=0.05)
    assert value("no_such_task") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: the columns are"),
        ("table,model\n", "line 1: the columns are"),
        (f"{HEADER}\n{GOOD},more\n", "line 2: 10 values, expected 9"),
        (f"{HEADER}\n{GOOD}\n\n{GOOD}\n", "line 4: table=1, model=vit_b_32.*column=dtd is there twice"),
        (f"{HEADER}\n{GOOD.replace('58.3', 'high')}\n", "line 2: value='high', expected a number"),
        (f"{HEADER}\n{GOOD.replace('58.3', 'nan')}\n", "line 2: value='nan', expected a number"),
        (f"{HEADER}\n{GOOD.replace('a source', '')}\n", "line 2: source is empty"),
        (f"{HEADER}\n{GOOD.replace('true', 'yes')}\n", "line 2: second_hand='yes', expected true or false"),
    ],
)
def test_a_malformed_file_names_line_and_key(tmp_path: Path, content: str, message: str):
    path = tmp_path / "published.csv"
    path.write_text(content)
    with pytest.raises(KnotsError, match=message):
        load_published(path)


def test_an_absent_file_is_named(tmp_path: Path):
    with pytest.raises(KnotsError, match=r"cannot read the published figures .*nowhere"):
        load_published(tmp_path / "nowhere.csv")
