"""A sheet as text, Markdown, LaTeX, CSV and HTML. Every format shows every figure that the sheet has."""

from __future__ import annotations

import csv as csv_module
import io
from collections.abc import Container
from html import escape
from pathlib import Path

from rich.console import Console, RenderableType

from knots.files import write_whole
from knots.reporting.latex import latex
from knots.reporting.sheets import Cell, Row, Sheet
from knots.reporting.terminal import SheetView, below, superscript
from knots.reporting.wording import OURS, Line, Words, lines

__all__ = ["csv", "html", "latex", "markdown", "plain", "text", "write_sheet"]

CSV_COLUMNS = (
    "row",
    "column",
    "ours",
    "low",
    "high",
    "published",
    "second_hand",
    "difference",
    "run",
    "note",
    "text",
    "significant",
    "undecidable",
)
WIDTH = 120
"""Characters of a line in text files."""


def text(sheet: Sheet) -> RenderableType:
    """The sheet for a terminal of any width."""
    return SheetView(sheet)


def plain(sheet: Sheet, width: int = WIDTH) -> str:
    """The same without colours, in lines of at most `width` characters."""
    console = Console(width=width, file=io.StringIO(), color_system=None, force_terminal=False, emoji=False)
    with console.capture() as captured:
        console.print(text(sheet))
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def markdown(sheet: Sheet) -> str:
    """A table with a heading; notes are a list below it."""
    header = ["", *([""] if sheet.compares else []), *sheet.columns]
    rule = ["---"] * (len(header) - len(sheet.columns)) + ["---:"] * len(sheet.columns)
    body = [_markdown_cells(line, sheet) for row in lines(sheet) for line in row]
    table = [
        _pipes([_markdown(name) for name in header]),
        _pipes(rule),
        *(_pipes(cells) for cells in body),
    ]
    notes = [f"- {_markdown(note)}" for note in below(sheet)]
    return "\n".join([f"**{_markdown(sheet.title)}**", "", *table, *(["", *notes] if notes else [])]) + "\n"


def _markdown_cells(line: Line, sheet: Sheet) -> list[str]:
    names = [_markdown(line.row.label) if line.kind == OURS else "", *([line.kind] if sheet.compares else [])]
    if line.missing:
        return [*names, _markdown(line.missing), *[""] * (len(line.words) - 1)]
    return [*names, *(_inline(words) for words in line.words)]


def _inline(words: Words) -> str:
    """Number, dagger, note and margin on one line."""
    marks = "".join(words.marks).replace("*", "\\*") + (superscript(words.note) if words.note else "")
    number = _markdown(words.number) if words.cell.text else words.number
    return f"{number}{marks}" + ("" if words.margin is None else f" ± {words.margin}")


def _markdown(words: str) -> str:
    """Text whose signs mean nothing to Markdown."""
    for sign in "\\`*_[]<>|#":
        words = words.replace(sign, f"\\{sign}")
    return _one_line(words)


def _pipes(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def csv(sheet: Sheet) -> str:
    """One line a cell, every number in full; an absent one is empty."""
    file = io.StringIO()
    writer = csv_module.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in sheet.rows:
        for column, cell in zip(sheet.columns, row.cells, strict=True):
            writer.writerow([_csv_value(value) for value in _csv_values(row, column, cell)])
    return file.getvalue()


def _csv_values(row: Row, column: str, cell: Cell) -> list[object]:
    low, high = cell.interval or (None, None)
    second_hand = None if cell.published is None else str(cell.second_hand).lower()
    note = "; ".join(filter(None, [row.missing, cell.note])) or None
    own = [cell.ours, low, high, cell.published, second_hand, cell.difference, cell.run]
    faint = None if cell.published is None else str(cell.faint).lower()
    star = None if cell.ours is None else str(cell.star).lower()
    return [row.label, column, *own, note, cell.text, star, faint]


def _csv_value(value: object) -> object:
    """An empty string for nothing; line breaks, legal but read by few programs, become blanks."""
    return _one_line(value) if isinstance(value, str) else "" if value is None else value


def _one_line(words: str) -> str:
    return " ".join(words.split())


def html(sheet: Sheet, linked: Container[str] = ()) -> str:
    """A `<figure>` with the table; a cell's title names the run that its number comes from.

    Args:
        sheet: the table.
        linked: ids of the runs that the page tells of: their numbers link to `#run-<id>`.
    """
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in sheet.columns)
    corner = "<td></td>" * (2 if sheet.compares else 1)
    bodies = "\n".join(_html_row(row, sheet, linked) for row in lines(sheet))
    notes = "".join(f"<li>{escape(note)}</li>" for note in below(sheet))
    return (
        f'<figure class="sheet">\n<figcaption>{escape(sheet.title)}</figcaption>\n<div class="wide"><table>\n'
        f"<thead><tr>{corner}{columns}</tr></thead>\n{bodies}\n</table></div>\n"
        + (f'<ul class="notes">{notes}</ul>\n' if notes else "")
        + "</figure>\n"
    )


def _html_row(row: list[Line], sheet: Sheet, linked: Container[str]) -> str:
    span = f' rowspan="{len(row)}"' if len(row) > 1 else ""
    label = f'<th scope="rowgroup"{span}>{escape(row[0].row.label)}</th>'
    done = []
    for place, line in enumerate(row):
        kind = f'<td class="kind">{line.kind}</td>' if sheet.compares else ""
        if line.missing:
            cells = f'<td class="missing" colspan="{len(line.words)}">{escape(line.missing)}</td>'
        else:
            cells = "".join(_html_cell(line, words, linked) for words in line.words)
        done.append(f'<tr class="{line.kind}">{label if place == 0 else ""}{kind}{cells}</tr>')
    return "<tbody>\n" + "\n".join(done) + "\n</tbody>"


def _html_cell(line: Line, words: Words, linked: Container[str]) -> str:
    number, cell = escape(words.number), words.cell
    if line.kind == OURS and cell.run and cell.run in linked:
        number = f'<a href="#run-{escape(cell.run)}">{number}</a>'
    signs = (*words.marks, *([str(words.note)] if words.note else []))
    marks = "".join(f"<sup>{sign}</sup>" for sign in signs)
    margin = "" if words.margin is None else f" <small>±{words.margin}</small>"
    title = _title(words) if line.kind == OURS else ""
    faint = ' class="faint"' if words.faint else ""
    return f"<td{faint}{title}>{number}{marks}{margin}</td>"


def _title(words: Words) -> str:
    cell = words.cell
    said = [f"run {cell.run}"] if cell.run else []
    if cell.interval is not None:
        said.append(f"95 % interval {cell.interval[0]:.2f} to {cell.interval[1]:.2f}")
    return f' title="{escape("; ".join(said))}"' if said else ""


def write_sheet(sheet: Sheet, folder: Path) -> list[Path]:
    """Write `<name>.txt`, `.md`, `.tex` and `.csv` into a folder, which is made; returns the paths."""
    contents = {"txt": plain(sheet), "md": markdown(sheet), "tex": latex(sheet), "csv": csv(sheet)}
    paths = {folder / f"{sheet.name}.{ending}": content for ending, content in contents.items()}
    for path, content in paths.items():
        write_whole(path, content.encode())
    return list(paths)
