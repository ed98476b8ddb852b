"""Rows of tokens as a rectangle."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from knots.suites.texts import TextArrays

ITEMS = st.lists(st.lists(st.integers(2, 99), min_size=1, max_size=7), min_size=1, max_size=6)


@given(ITEMS, st.data())
def test_rows_are_padded_on_the_right(rows: list[list[int]], data: st.DataObject):
    starts = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    flat = np.array([token for row in rows for token in row], dtype=np.int32)
    arrays = TextArrays(flat, starts, np.zeros(len(rows), np.int64))
    items = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    tokens, lengths = arrays.padded(items, pad=1)
    width = max((len(rows[item]) for item in items), default=0)
    assert tokens.tolist() == [rows[item] + [1] * (width - len(rows[item])) for item in items]
    assert lengths.tolist() == [len(rows[item]) for item in items]
    assert arrays.lengths.tolist() == [len(row) for row in rows]
