"""How the figures of a sheet are worded, the same in every format.

A row is up to three lines: ours, what was published, and the signed difference. Formats differ only in how
they set these words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from knots.reporting.sheets import Cell, Row, Sheet

DASH = "-"
OURS, PUBLISHED, DIFFERENCE = "ours", "published", "difference"


@dataclass(frozen=True)
class Words:
    """What is printed of one figure.

    Attributes:
        number: digits, or a dash.
        margin: digits of the longer arm of its interval.
        second_hand: to be marked with a dagger.
        note: number of its note below the table.
        cell: where it comes from.
    """

    number: str
    cell: Cell
    margin: str | None = None
    second_hand: bool = False
    note: int | None = None


@dataclass(frozen=True)
class Line:
    """One line of a row.

    Attributes:
        row: which row it belongs to.
        kind: `OURS`, `PUBLISHED` or `DIFFERENCE`.
        words: one for each column.
        missing: what stands in place of all the words.
    """

    row: Row
    kind: str
    words: tuple[Words, ...]
    missing: str | None = None


def lines(sheet: Sheet) -> Iterator[list[Line]]:
    """The lines of every row: one where the sheet has no published figure, else two or three."""
    notes = {note: number for number, note in enumerate(cell_notes(sheet), 1)}
    for row in sheet.rows:
        ours = tuple(_ours(cell, sheet.decimals, notes) for cell in row.cells)
        measured = any(cell.ours is not None for cell in row.cells)
        parts = [Line(row, OURS, ours, None if measured else row.missing)]
        if sheet.compares:
            parts.append(Line(row, PUBLISHED, tuple(_published(cell, sheet.decimals) for cell in row.cells)))
        if any(cell.difference is not None for cell in row.cells):
            parts.append(
                Line(row, DIFFERENCE, tuple(_difference(cell, sheet.decimals) for cell in row.cells))
            )
        yield parts


def cell_notes(sheet: Sheet) -> list[str]:
    """The distinct notes of cells, in order of appearance; their numbers count from 1."""
    return list(dict.fromkeys(cell.note for cell in sheet.cells() if cell.note))


def legend(sheet: Sheet) -> list[str]:
    """What the signs mean that the sheet shows."""
    said = []
    if any(cell.margin is not None for cell in sheet.cells()):
        said.append("±: longer arm of the 95 % interval")
    if any(cell.second_hand for cell in sheet.cells() if cell.published is not None):
        said.append("†: second-hand, seen where others repeat it")
    if any(cell.difference is not None for cell in sheet.cells()):
        said.append("difference: ours minus published, in points")
    return said


def _ours(cell: Cell, decimals: int, notes: dict[str, int]) -> Words:
    margin = None if cell.margin is None else f"{cell.margin:.{decimals}f}"
    note = notes[cell.note] if cell.note else None
    return Words(_digits(cell.ours, decimals), cell, margin=margin, note=note)


def _published(cell: Cell, decimals: int) -> Words:
    marked = cell.second_hand and cell.published is not None
    return Words(_digits(cell.published, decimals), cell, second_hand=marked)


def _difference(cell: Cell, decimals: int) -> Words:
    if cell.difference is None:
        return Words(DASH, cell)
    # Rounded first, and zero added: no "-0.0".
    return Words(f"{round(cell.difference, decimals) + 0.0:+.{decimals}f}", cell)


def _digits(value: float | None, decimals: int) -> str:
    return DASH if value is None else f"{value:.{decimals}f}"
