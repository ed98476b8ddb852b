"""A table of results beside published ones, before it is known how it will be printed.

Numbers are percent unless a sheet's title says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from knots.errors import KnotsError


@dataclass(frozen=True)
class Cell:
    """One figure of ours beside the published one; either may be absent.

    Attributes:
        ours: what was measured.
        published: what was published for the same question.
        second_hand: the published figure was not seen at its origin but where others repeat it.
        interval: lower and upper end of the 95 % interval of `ours`.
        run: id of the run that `ours` comes from.
        note: what a reader of this cell must know.
        text: what is printed in place of `ours`, for what is no number of the sheet's unit, as "1.3 s".
        star: `ours`, a difference, is significant after a correction for all tests of the table.
        faint: the published figure is a gap that the benchmark is too small to tell from none.
    """

    ours: float | None = None
    published: float | None = None
    second_hand: bool = False
    interval: tuple[float, float] | None = None
    run: str | None = None
    note: str | None = None
    text: str | None = None
    star: bool = False
    faint: bool = False

    @property
    def difference(self) -> float | None:
        """Ours minus published, in points; None if one of them is absent."""
        if self.ours is None or self.published is None:
            return None
        return self.ours - self.published

    @property
    def margin(self) -> float | None:
        """The longer arm of the interval, in points."""
        if self.ours is None or self.interval is None:
            return None
        low, high = self.interval
        return max(self.ours - low, high - self.ours)


@dataclass(frozen=True)
class Row:
    """One line of a sheet: a method, a rank, a number of tasks.

    Attributes:
        label: stands at its left.
        cells: one for each column.
        missing: why nothing was measured, as "not run"; None where something was.
    """

    label: str
    cells: tuple[Cell, ...]
    missing: str | None = None


@dataclass(frozen=True)
class Sheet:
    """A table of one kind of number.

    Attributes:
        name: of its files.
        title: says what the numbers are, and their unit where it is not percent.
        columns: headers, one for each cell of a row.
        rows: from top to bottom.
        notes: stand below.
        decimals: digits after the point that are printed; CSV has them all.
        signed: numbers are differences, printed with their sign; ours and published ones are not subtracted.

    Raises:
        KnotsError: a row has more or fewer cells than there are columns.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    decimals: int = 1
    signed: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise KnotsError(
                    f"sheet {self.name!r}: row {row.label!r} has {len(row.cells)} cells, "
                    f"expected {len(self.columns)}, one a column"
                )

    @property
    def compares(self) -> bool:
        """Whether any figure was published."""
        return any(cell.published is not None for cell in self.cells())

    def cells(self) -> list[Cell]:
        """Every cell, row by row."""
        return [cell for row in self.rows for cell in row.cells]

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which `from_json` makes an equal sheet."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Sheet:
        """Read what `to_json` made.

        Raises:
            KnotsError: a key is absent or unknown, or rows and columns do not fit.
        """
        try:
            rows = tuple(_row(row) for row in values["rows"])
            own = {**values, "columns": tuple(values["columns"]), "rows": rows}
            return cls(**{**own, "notes": tuple(values.get("notes", ()))})
        except (KeyError, TypeError) as error:
            raise KnotsError(f"not a sheet: {values.get('name', values)!r} ({error})") from error


def _row(values: Mapping[str, Any]) -> Row:
    return Row(values["label"], tuple(_cell(cell) for cell in values["cells"]), values.get("missing"))


def _cell(values: Mapping[str, Any]) -> Cell:
    interval: Sequence[float] | None = values.get("interval")
    return Cell(**{**values, "interval": None if interval is None else (interval[0], interval[1])})
