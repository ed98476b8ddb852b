"""A sheet in the terminal, split between columns where it would be too wide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from textwrap import fill

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from knots.reporting.sheets import Sheet
from knots.reporting.wording import OURS, Line, Words, cell_notes, legend, lines

REASON = 24
"""Characters of a line that says why a row was not measured, which stands below the row's label."""

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class SheetView:
    """What `rich` prints of a sheet: one table, or several of a part of the columns each."""

    sheet: Sheet

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the fewest tables that fit, then what stands below them."""
        yield Text(self.sheet.title, style="bold")
        yield from self._fitting(console, options)
        for line in below(self.sheet):
            yield Text(line, style="dim")

    def _fitting(self, console: Console, options: ConsoleOptions) -> list[Table]:
        count = len(self.sheet.columns)
        wide = options.update(max_width=10_000)
        for parts in range(1, count + 1):
            size = ceil(count / parts)
            tables = [self._table(range(start, min(start + size, count))) for start in range(0, count, size)]
            if all(console.measure(table, options=wide).maximum <= options.max_width for table in tables):
                return tables
        return [self._table(range(place, place + 1)) for place in range(count)]

    def _table(self, columns: range) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
        table.add_column("")
        for place in columns:
            table.add_column(_stacked(self.sheet.columns[place]), justify="right", no_wrap=True)
        for row in lines(self.sheet):
            for line in row:
                # Without a style of its own for what is compared with, ours would not stand out.
                cells = [_text(line, line.words[place]) for place in columns]
                table.add_row(_label(line), *cells, style="" if line.kind == OURS else "dim")
        return table


def below(sheet: Sheet) -> Iterator[str]:
    """The lines below a table: its legend, the cells' notes, the sheet's notes."""
    signs = "; ".join(legend(sheet))
    if signs:
        yield signs
    for number, note in enumerate(cell_notes(sheet), 1):
        yield f"{superscript(number)} {note}"
    yield from sheet.notes


def superscript(number: int) -> str:
    """A number set small and high."""
    return str(number).translate(SUPERSCRIPTS)


def _label(line: Line) -> Text:
    if line.kind != OURS:
        return Text(f"  {line.kind}")
    label = Text(line.row.label)
    if line.missing:
        label.append(
            "\n" + fill(line.missing, REASON, initial_indent="  ", subsequent_indent="  "), style="italic"
        )
    return label


def _text(line: Line, words: Words) -> Text:
    if line.missing:
        return Text("")
    marks = "".join(words.marks) + (superscript(words.note) if words.note else "")
    text = Text(words.number + marks, style="bright_black" if words.faint else "")
    return text if words.margin is None else text.append(f"\n±{words.margin}", style="dim")


def _stacked(name: str) -> str:
    """A header in as few columns as its words allow."""
    return name.replace("@", "\n@") if "@" in name else name.replace("_", "\n")
