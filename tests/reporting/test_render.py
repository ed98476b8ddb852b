"""Every format shows every figure of a sheet, and breaks on no sign in it."""

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings

from knots.reporting import render
from knots.reporting.sheets import Cell, Row, Sheet
from tests.reporting.test_sheets import sheets

TASKS = ("stanford_cars", "dtd", "eurosat", "gtsrb", "mnist", "resisc45", "sun397", "svhn", "average")
FORMATS = {
    "text": lambda sheet: render.plain(sheet, 80),
    "markdown": render.markdown,
    "latex": render.latex,
    "csv": render.csv,
    "html": render.html,
}


def table() -> Sheet:
    ours = [
        Cell(60.25 + i, 61.0 + i if i % 2 else None, True, (58.0 + i, 61.0 + i), "0123456789ab")
        for i in range(9)
    ]
    ours[3] = Cell(63.25, 64.0, False, None, "0123456789ab", "on the grid's edge")
    absent = [Cell(published=50.5 + i if i < 3 else None) for i in range(9)]
    rows = (
        Row("knots_ties", tuple(ours)),
        Row("ties", tuple(absent), "not run: no adapters for <svhn> & 100 % of_it"),
        Row("regmean", tuple(Cell(70.0 + i) for i in range(9))),
    )
    return Sheet("table1", "Table 1: accuracy, %", TASKS, rows, ("Rows & columns_of <the> paper.",))


@pytest.mark.parametrize("name", ["text", "markdown", "latex", "html"])
def test_every_figure_mark_and_note_is_shown(name: str):
    shown = re.sub(r"<[^<>]*>|\\|\$|\{|\}|\^", "", FORMATS[name](table()).replace(r"\dagger", "†"))
    shown = shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").replace("&#x27;", "'")
    sheet = table()
    for cell in sheet.cells():
        for value, form in ((cell.ours, ".1f"), (cell.published, ".1f"), (cell.difference, "+.1f")):
            assert value is None or f"{value:{form}}" in shown
    assert "62.0†" in shown
    assert "64.0†" not in shown
    assert "second-hand" in shown
    assert "grid's edge" in shown
    assert " ".join(shown.split()).count("not run: no adapters") == (2 if name == "text" else 1)
    for word in (
        "Table 1: accuracy, %",
        "knots_ties",
        "regmean",
        "published",
        "difference",
        "Rows & columns_of",
    ):
        assert word in shown


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_text_fits_the_terminal(width: int):
    lines = render.plain(table(), width).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    joined = "".join("".join(lines).split())
    assert all(name.replace("_", "") in joined.replace("_", "") for name in ("dtd", "eurosat", "average"))


def test_a_sheet_without_published_figures_has_one_line_a_row():
    sheet = Sheet(
        "t", "T", ("a", "b"), (Row("x", (Cell(1.0), Cell())), Row("y", (Cell(), Cell()), "not run"))
    )
    for name in ("text", "markdown", "latex", "html"):
        shown = FORMATS[name](sheet)
        assert "published" not in shown
        assert "second-hand" not in shown
    assert render.markdown(sheet).splitlines()[-2:] == ["| x | 1.0 | - |", "| y | not run |  |"]


def test_a_difference_of_nothing_has_no_minus():
    sheet = Sheet("t", "T", ("a",), (Row("x", (Cell(50.0, 50.04),)),))
    assert "+0.0" in render.markdown(sheet)


def differences() -> Sheet:
    cells = (
        Cell(1.24, published=0.2, second_hand=True, faint=True, star=True),
        Cell(-0.04, published=4.3),
        Cell(text="1.3 s"),
        Cell(faint=True),
    )
    return Sheet("d", "D", ("a", "b", "c", "e"), (Row("B - A", cells),), signed=True)


def test_differences_are_signed_starred_and_greyed():
    shown = render.markdown(differences())
    assert r"| B - A | ours | +1.2\* | +0.0 | 1.3 s | - |" in shown
    assert "|  | published | (+0.2)† | +4.3 | - | - |" in shown
    assert "difference: ours minus" not in shown
    assert "below the minimal detectable difference" in shown
    assert "Holm" in shown
    page = render.html(differences())
    assert page.count('class="faint"') == 1
    assert "+1.2<sup>*</sup>" in page
    paper = render.latex(differences())
    assert r"\textcolor{gray}{$(+0.2)$}$^{\dagger}$" in paper
    assert "$+1.2$$^{*}$" in paper
    text = render.plain(differences())
    assert "+1.2*" in text
    assert "(+0.2)†" in text
    assert "1.3 s" in text
    (first, second, third, fourth) = csv.DictReader(io.StringIO(render.csv(differences())))
    assert (first["significant"], first["undecidable"]) == ("true", "true")
    assert (second["significant"], second["undecidable"]) == ("false", "false")
    assert (third["text"], third["ours"], third["significant"]) == ("1.3 s", "", "")
    assert fourth["undecidable"] == ""


def test_csv_is_long_and_exact():
    sheet = table()
    lines = list(csv.DictReader(io.StringIO(render.csv(sheet))))
    assert len(lines) == len(sheet.cells())
    for line, cell in zip(lines, sheet.cells(), strict=True):
        assert line["ours"] == ("" if cell.ours is None else repr(cell.ours))
        assert line["difference"] == ("" if cell.difference is None else repr(cell.difference))
        assert line["second_hand"] == ("" if cell.published is None else str(cell.second_hand).lower())
    assert (lines[0]["row"], lines[0]["column"], lines[0]["run"]) == ("knots_ties", TASKS[0], "0123456789ab")
    assert (lines[0]["low"], lines[0]["high"]) == ("58.0", "61.0")
    assert lines[9]["note"].startswith("not run: no adapters")
    assert lines[3]["note"] == "on the grid's edge"


def test_html_names_the_run_and_links_to_those_it_is_told_of():
    assert 'title="run 0123456789ab; 95 % interval 58.00 to 61.00"' in render.html(table())
    assert "href" not in render.html(table())
    assert render.html(table(), linked={"0123456789ab"}).count('href="#run-0123456789ab"') == 9


class Balance(HTMLParser):
    """Fails on a tag that is closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:  # noqa: ARG002
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@settings(max_examples=40, deadline=None)
@given(sheets())
def test_no_text_breaks_a_format(sheet: Sheet):
    balance = Balance()
    balance.feed(render.html(sheet))
    assert balance.open == []
    assert len(list(csv.DictReader(io.StringIO(render.csv(sheet), newline="")))) == len(sheet.cells())
    rows = [line for line in render.markdown(sheet).splitlines() if line.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) <= 1
    body = render.latex(sheet).split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert not re.search(r"(?<!\\)[%#_]", body)
    assert isinstance(render.plain(sheet, 60), str)


def test_files_are_written_by_name(tmp_path: Path):
    paths = render.write_sheet(table(), tmp_path / "tables")
    assert [path.name for path in paths] == ["table1.txt", "table1.md", "table1.tex", "table1.csv"]
    assert (tmp_path / "tables" / "table1.md").read_text() == render.markdown(table())
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == sorted(
        path.name for path in paths
    )
