"""The official procedure on a fixed table of accuracies, against a plain transcription of its rules."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knots.search import Axis, line_search

SCALES, DENSITIES = (0.1, 0.2, 0.3, 0.4), (0.1, 0.2, 0.3)

# Rows: scales, columns: densities. Along density 0.2 the values rise to scale 0.3 (through a tie) and then
# fall; 0.4 would be better again at density 0.1, which the procedure never sees.
TABLE = {
    0.1: (50.0, 60.0, 55.0),
    0.2: (51.0, 62.0, 56.0),
    0.3: (52.0, 62.0, 61.0),
    0.4: (99.0, 61.5, 57.0),
}


def score(options):
    return TABLE[options["scale"]][DENSITIES.index(options["density"])]


def axes():
    return Axis("scale", SCALES), Axis("density", DENSITIES)


START = {"scale": 0.1, "density": 0.2}


def test_per_task_an_equal_value_goes_on_and_the_first_worse_one_ends_the_line():
    found = line_search(score, axes(), START, goes_on=">=")
    assert found.options == {"scale": 0.3, "density": 0.2}
    assert found.value == 62.0
    # Scale 0.1 to 0.4 at density 0.2; then density 0.1, 0.2 (known) and 0.3 at scale 0.3.
    tried = [(o["scale"], o["density"]) for o, _ in found.tried]
    assert tried == [(0.1, 0.2), (0.2, 0.2), (0.3, 0.2), (0.4, 0.2), (0.3, 0.1), (0.3, 0.3)]
    assert found.evaluations == 6
    assert found.edge == {"scale": None, "density": None}


def test_jointly_an_equal_value_ends_the_line():
    found = line_search(score, axes(), START, goes_on=">")
    assert found.options == {"scale": 0.2, "density": 0.2}
    tried = [(o["scale"], o["density"]) for o, _ in found.tried]
    assert tried == [(0.1, 0.2), (0.2, 0.2), (0.3, 0.2), (0.2, 0.1), (0.2, 0.3)]


def test_every_axis_begins_anew_so_the_last_one_decides_even_where_it_is_worse():
    # The second axis never comes to the start's density: it ends after its second value.
    table = {0.2: 80.0, 0.1: 50.0, 0.3: 40.0}
    found = line_search(
        lambda o: table[o["density"]],
        [Axis("scale", (0.5, 0.6)), Axis("density", (0.1, 0.3, 0.2))],
        {"scale": 0.5, "density": 0.2},
        goes_on=">=",
    )
    assert found.options == {"scale": 0.6, "density": 0.1}
    assert found.value == 50.0
    assert max(value for _, value in found.tried) == 80.0
    assert found.edge == {"scale": "high", "density": "low"}


def test_values_of_zero_keep_the_start_where_the_official_code_fails():
    found = line_search(lambda _: 0.0, axes(), START, goes_on=">")
    assert found.options == START
    assert found.value == 0.0


def transcribed(table, axes, start, goes_on):
    """The official loop, written down with its dictionaries (eval_scripts/8vision_*_linearsearch.py)."""
    default_params, evaluated = dict(start), []
    for name, values in axes:
        best = {"value": 0.0}
        for value in values:
            instance = {**default_params, name: value}
            result = table[tuple(instance[key] for key in sorted(instance))]
            evaluated.append(tuple(sorted(instance.items())))
            better = result >= best["value"] if goes_on == ">=" else result > best["value"]
            if not better:
                break
            best = {**instance, "value": result}
        default_params[name] = best[name]
    return default_params, list(dict.fromkeys(evaluated))


@settings(deadline=None, max_examples=200)
@given(data=st.data(), goes_on=st.sampled_from([">=", ">"]))
def test_it_is_the_official_loop_on_any_table(data, goes_on):
    names = data.draw(st.sampled_from([("scale",), ("scale", "density"), ("scale", "density", "drop")]))
    grid = [(name, (0.1, 0.2, 0.3)) for name in names]
    values = st.integers(1, 5).map(float)
    keys = [()]
    for _ in names:
        keys = [(*key, value) for key in keys for value in (0.1, 0.2, 0.3)]
    table = {key: data.draw(values) for key in keys}
    start = {name: data.draw(st.sampled_from([0.1, 0.2, 0.3])) for name in names}
    expected, evaluated = transcribed(table, grid, start, goes_on)
    found = line_search(
        lambda o: table[tuple(o[key] for key in sorted(o))],
        [Axis(*axis) for axis in grid],
        start,
        goes_on=goes_on,
    )
    assert found.options == expected
    tried = [tuple(sorted(options.items())) for options, _ in found.tried]
    assert tried[: len(evaluated)] == evaluated
    # What the last axis ended with was scored in it; nothing else is scored.
    assert len(tried) == len(evaluated)


@pytest.mark.parametrize(("value", "edge"), [(0.1, "low"), (0.2, None), (0.4, "high")])
def test_an_axis_tells_its_ends(value, edge):
    assert Axis("scale", SCALES).edge(value) == edge
    assert Axis("scale", (value,)).edge(value) is None
