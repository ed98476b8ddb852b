"""Matching predictions item by item, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knots.analysis.statistics import panel
from knots.errors import KnotsError
from tests.analysis.statistics.panels import predictions

RIGHT = np.array([True, False, True, True])


def table(right=RIGHT, **changes) -> pd.DataFrame:
    return predictions(np.asarray(right), **changes)


@given(st.permutations(range(8)))
def test_the_order_of_rows_does_not_matter(order: list[int]):
    both = pd.concat([table(task="a"), table(~RIGHT, task="b")], ignore_index=True)
    expected, found = panel([{"m": both}]), panel([{"m": both.iloc[order]}])
    for task in ("a", "b"):
        np.testing.assert_array_equal(found.right[task], expected.right[task])
    np.testing.assert_array_equal(expected.right["a"], RIGHT[None, None])
    assert expected.reference is None


def test_shapes_and_places():
    universes = [{"m": table(), "o": table(~RIGHT)}, {"o": table(), "m": table(RIGHT)}]
    found = panel(universes, reference=[table(), table(~RIGHT)])
    assert (found.tasks, found.predictors, found.universes) == (("digits",), ("m", "o"), 2)
    assert found.items == {"digits": 4}
    np.testing.assert_array_equal(found.right["digits"], [[RIGHT, ~RIGHT], [RIGHT, RIGHT]])
    np.testing.assert_array_equal(found.reference["digits"], [RIGHT, ~RIGHT])
    assert found.scored.tolist() == [[True], [True]]


def test_a_predictor_of_some_of_the_tasks():
    both = pd.concat([table(task="a"), table(task="b")])
    found = panel([{"whole": both, "part": table(task="b")}])
    assert found.tasks == ("a", "b")
    assert found.scored.tolist() == [[True, True], [False, True]]
    assert not found.right["a"][0, 1].any()


def test_hits_are_ranks():
    found = panel([{"m": table(ranks=True)}], hits=3)
    np.testing.assert_array_equal(found.right["digits"][0, 0], RIGHT)
    assert panel([{"m": table(ranks=True)}], hits=4).right["digits"].all()


def test_what_is_not_scored_is_wrong():
    rows = table()
    rows["prediction"] = pd.array([-1, -1, -1, 0], dtype="Int64")
    assert not panel([{"m": rows}]).right["digits"].any()


LABELS = np.array([0, 1, 2, 5])


@pytest.mark.parametrize(("universes", "options", "words"), [
    ([], {}, "at least one universe"),
    ([{}], {}, "at least one universe"),
    ([{"m": table()}, {"o": table()}], {}, "universe 1 has the predictors o, expected m"),
    ([{"m": table().drop(columns="item")}], {}, "'m' have no column 'item'"),
    ([{"m": table()}], {"hits": 3}, "no column 'joint_rank'"),
    ([{"m": table(ranks=True)}], {"hits": 3, "reference": [table()]}, "joint hits are not normalized"),
    ([{"m": table().assign(prediction=[0, None, 2, 3])}], {}, "'m': 1 rows have no prediction"),
    ([{"m": pd.concat([table(), table()])}], {}, "task 'digits': item 0 is there twice"),
    ([{"m": table(), "o": table()[:3]}], {}, "'o' has 3 items and 'm' has 4; only one of them has item 3"),
    ([{"m": table(), "o": table(labels=LABELS)}], {}, "other labels for 1 items, as 3"),
    ([{"m": table()}, {"m": table(labels=LABELS)}], {}, "other labels for 1 items"),
    ([{"m": table()}], {"reference": [table(labels=LABELS)]}, "'reference' and 'm' have other labels"),
    ([{"m": table()}], {"reference": [table(task="b")]}, "reference has no predictions of digits"),
    ([{"m": table()}], {"reference": []}, "0 references for 1 universes"),
    ([{"m": table()}, {"m": table(task="b")}], {}, "other|tasks b, expected digits"),
    ([{"m": table()[:0]}], {}, "have no rows"),
])  # fmt: skip
def test_what_cannot_be_matched_is_refused(universes, options, words):
    with pytest.raises(KnotsError, match=words):
        panel(universes, **options)
