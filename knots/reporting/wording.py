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
        star: to be marked as significant.
        faint: to be set in grey.
        cell: where it comes from.
    """

    number: str
    cell: Cell
    margin: str | None = None
    second_hand: bool = False
    note: int | None = None
    star: bool = False
    faint: bool = False

    @property
    def marks(self) -> tuple[str, ...]:
        """Signs that stand high behind the number, for all formats that have no others for them."""
        signs = ("*" if self.star else "", "†" if self.second_hand else "")
        return tuple(filter(None, signs))


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
        ours = tuple(_ours(cell, sheet, notes) for cell in row.cells)
        measured = any(cell.ours is not None or cell.text for cell in row.cells)
        parts = [Line(row, OURS, ours, None if measured else row.missing)]
        if sheet.compares:
            parts.append(Line(row, PUBLISHED, tuple(_published(cell, sheet) for cell in row.cells)))
        if not sheet.signed and any(cell.difference is not None for cell in row.cells):
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
    if any(cell.star for cell in sheet.cells()):
        said.append("*: significant at 5 %, Holm over the table")
    if any(cell.margin is not None for cell in sheet.cells()):
        said.append("±: longer arm of the 95 % interval")
    if any(cell.second_hand for cell in sheet.cells() if cell.published is not None):
        said.append("†: second-hand, seen where others repeat it")
    if any(cell.faint for cell in sheet.cells() if cell.published is not None):
        said.append("grey, in brackets: below the minimal detectable difference")
    if not sheet.signed and any(cell.difference is not None for cell in sheet.cells()):
        said.append("difference: ours minus published, in points")
    return said


def _ours(cell: Cell, sheet: Sheet, notes: dict[str, int]) -> Words:
    margin = None if cell.margin is None else f"{cell.margin:.{sheet.decimals}f}"
    note = notes[cell.note] if cell.note else None
    number = cell.text or _digits(cell.ours, sheet)
    return Words(number, cell, margin=margin, note=note, star=cell.star)


def _published(cell: Cell, sheet: Sheet) -> Words:
    known = cell.published is not None
    number, faint = _digits(cell.published, sheet), cell.faint and known
    shown = f"({number})" if faint else number
    return Words(shown, cell, second_hand=cell.second_hand and known, faint=faint)


def _difference(cell: Cell, decimals: int) -> Words:
    if cell.difference is None:
        return Words(DASH, cell)
    return Words(_signed(cell.difference, decimals), cell)


def _digits(value: float | None, sheet: Sheet) -> str:
    if value is None:
        return DASH
    return _signed(value, sheet.decimals) if sheet.signed else f"{value:.{sheet.decimals}f}"


def _signed(value: float, decimals: int) -> str:
    # Rounded first, and zero added: no "-0.0".
    return f"{round(value, decimals) + 0.0:+.{decimals}f}"
