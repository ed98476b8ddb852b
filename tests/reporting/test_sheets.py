"""A sheet is what it says, and survives being stored."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knots.errors import KnotsError
from knots.reporting.sheets import Cell, Row, Sheet

NUMBERS = st.none() | st.floats(-1e6, 1e6)
WORDS = st.none() | st.text(max_size=8)
CELLS = st.builds(
    Cell,
    ours=NUMBERS,
    published=NUMBERS,
    second_hand=st.booleans(),
    interval=st.none() | st.tuples(st.floats(0, 50), st.floats(50, 100)),
    run=WORDS,
    note=WORDS,
    text=WORDS,
    star=st.booleans(),
    faint=st.booleans(),
)


@st.composite
def sheets(draw: st.DrawFn) -> Sheet:
    width = draw(st.integers(1, 4))
    rows = st.builds(
        Row,
        label=st.text(max_size=9),
        cells=st.lists(CELLS, min_size=width, max_size=width).map(tuple),
        missing=WORDS,
    )
    columns = st.lists(st.text(max_size=9), min_size=width, max_size=width).map(tuple)
    return Sheet(
        name="name",
        title=draw(st.text(max_size=20)),
        columns=draw(columns),
        rows=tuple(draw(st.lists(rows, max_size=4))),
        notes=tuple(draw(st.lists(st.text(max_size=9), max_size=2))),
        decimals=draw(st.integers(0, 3)),
        signed=draw(st.booleans()),
    )


@given(sheets())
def test_a_sheet_is_the_same_after_json(sheet: Sheet):
    assert Sheet.from_json(json.loads(json.dumps(sheet.to_json()))) == sheet


def test_the_difference_needs_both_figures():
    assert Cell(68.5, 68.0).difference == 0.5
    assert Cell(68.5).difference is None
    assert Cell(published=68.0).difference is None
    assert Cell(60.0, interval=(58.0, 61.0)).margin == 2.0
    assert Cell(None, interval=(58.0, 61.0)).margin is None


def test_a_row_needs_a_cell_a_column():
    with pytest.raises(KnotsError, match="row 'ties' has 1 cells, expected 2"):
        Sheet("t", "T", ("a", "b"), (Row("ties", (Cell(1.0),)),))


@pytest.mark.parametrize("broken", [{}, {"name": "t", "rows": [{}]}, {"name": "t", "rows": 3}])
def test_what_is_no_sheet_is_refused(broken: dict):
    with pytest.raises(KnotsError, match="not a sheet"):
        Sheet.from_json(broken)
    values = Sheet("t", "T", ("a",), ()).to_json()
    with pytest.raises(KnotsError, match=r"'t'.*colour"):
        Sheet.from_json({**values, "colour": 1})
