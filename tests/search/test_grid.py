import itertools

from hypothesis import given
from hypothesis import strategies as st

from knots.search import Axis, grid_search

SCALES, DENSITIES = (0.1, 0.2, 0.3), (0.5, 1.0)


def test_the_first_axis_changes_fastest_so_neighbours_differ_in_their_scale_alone():
    found = grid_search(lambda _: 1.0, [Axis("scale", SCALES), Axis("density", DENSITIES)])
    tried = [(options["scale"], options["density"]) for options, _ in found.tried]
    assert tried == [(scale, density) for density in DENSITIES for scale in SCALES]


@given(st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_the_best_is_the_first_of_the_largest(values):
    table = dict(zip(itertools.product(DENSITIES, SCALES), values, strict=True))
    found = grid_search(
        lambda o: float(table[o["density"], o["scale"]]), [Axis("scale", SCALES), Axis("density", DENSITIES)]
    )
    first = next(key for key, value in table.items() if value == max(values))
    assert (found.options["density"], found.options["scale"]) == first
    assert found.value == max(values)
    assert found.evaluations == 6
    assert found.edge["density"] == ("low" if first[0] == 0.5 else "high")
