"""The page holds everything that is finished, in itself, and breaks on nothing that people wrote."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from knots.reporting.overview import read_overview, runs_sheets, written
from knots.reporting.page import write_page
from knots.store import frame
from tests.reporting.conftest import TASKS
from tests.reporting.outputs import finish, make_outputs, make_run


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_outputs(tmp_path_factory.mktemp("outputs"))


class Page(HTMLParser):
    """Anchors, links, sources and tables of a page; fails on a tag that is closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tables = 0
        self.words = ""
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"]] if found.get("id") else []
        self.links += [found["href"]] if found.get("href") else []
        self.sources += [found["src"]] if found.get("src") else []
        self.tables += tag == "table"
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def page_of(folder: Path) -> Page:
    return Page(write_page(read_overview(folder, sort="normalized"))[-1].read_text())


def test_every_link_leads_to_an_anchor_and_none_leaves_the_page(outputs: Path):
    page = page_of(outputs)
    assert len(page.ids) == len(set(page.ids))
    assert len(page.links) > 20
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(page.sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)


def test_every_record_and_run_is_told_of(outputs: Path):
    page = page_of(outputs)
    # The sheet, the table of runs, and the tasks of each of seven runs.
    assert page.tables == 1 + 1 + 7
    assert {f"run-{run}" for run in frame(outputs)["run"]} <= set(page.ids)
    for words in (
        "mini_table1: <normalized> accuracy",
        "Table 1 <in miniature> & more, %",
        "not run: <no adapters> & none",
        "Made-up <numbers>.",
        "Bars are accuracies; whiskers 95 % intervals.",
        "The figure figures/../../../secret.png is not there.",
        "feedfeedfeed",
        "scale 0.3, seed 0",
        "scale high",
        "400 images a task",
        "(40 items)",
        "results_version: ",
        "torch: ",
    ):
        assert words in page.words, words
    numbers = frame(outputs)[[f"per_task/{task}/accuracy" for task in TASKS]].to_numpy().ravel()
    assert all(f"{number:.1f}" in page.words for number in numbers)


def test_a_figure_outside_its_record_is_not_embedded(outputs: Path):
    (outputs / "secret.png").write_bytes(b"\x89PNG secret")
    assert "secret" not in "".join(page_of(outputs).sources)


def test_files_lie_beside_the_page_and_hold_every_run(outputs: Path):
    paths = write_page(read_overview(outputs, sort="method"))
    names = ["runs.txt", "runs.md", "runs.tex", "runs.csv", "report.html"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in (outputs / "report").iterdir()) == sorted(names)
    runs = frame(outputs)["run"]
    for path in paths[:4]:
        assert all(run[:6] in path.read_text() for run in runs), path


def test_the_formats_hold_the_same_numbers(outputs: Path):
    overview = read_overview(outputs, sort="normalized")
    (sheet,) = runs_sheets(overview.runs)
    shown = [f"{cell.ours:.1f}" for cell in sheet.cells() if cell.ours is not None]
    for form in ("text", "markdown", "latex"):
        text = written(overview, form)
        assert all(number in text for number in shown), form
    lines = written(overview, "csv").splitlines()
    assert len(lines) == 1 + len(overview.runs)
    assert repr(overview.runs[0].metrics["average"]["accuracy"]) in lines[1]


def test_a_run_that_lies_twice_is_told_of_once(tmp_path: Path):
    run = make_run(tmp_path, 1)
    shutil.copytree(run, tmp_path / "figure3" / run.name)
    page = page_of(tmp_path)
    assert page.ids.count(f"run-{run.name}") == 1


def test_records_of_other_makers_may_lack_everything(tmp_path: Path):
    finish(tmp_path, "search", {"schema": 1, "record": "search", "figures": []}, s=1)
    finish(
        tmp_path,
        "t",
        {"schema": 1, "record": "experiment", "title": "T", "sheets": [{"rows": 1}], "figures": []},
        e=1,
    )
    page = page_of(tmp_path)
    assert "No merge was measured" in page.words
    assert page.tables == 0


def test_a_page_of_many_runs_stays_light(tmp_path: Path):
    for place in range(150):
        make_run(tmp_path, place)
    path = write_page(read_overview(tmp_path, sort="normalized"))[-1]
    assert path.stat().st_size < 2_000_000
    assert len(re.findall('class="run"', path.read_text())) == 150
