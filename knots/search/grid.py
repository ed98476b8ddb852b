"""The whole grid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from knots.search.axes import Asked, Axis, Found, Options, Score


def grid_search(score: Score, axes: Sequence[Axis]) -> Found:
    """Score every combination of the axes' values; of equal ones the first is the best.

    The first axis changes fastest, so with `scale` as the first one neighbours differ in their scale alone,
    and share their merge (`knots.merging.Prepared`).

    Args:
        score: gives a candidate's value.
        axes: at least one.
    """
    asked = Asked(score)
    best: tuple[Options, float] | None = None
    for values in itertools.product(*(axis.values for axis in reversed(axes))):
        options = dict(zip((axis.name for axis in axes), reversed(values), strict=True))
        value = asked(options)
        if best is None or value > best[1]:
            best = options, value
    assert best is not None
    edge = {axis.name: axis.edge(best[0][axis.name]) for axis in axes}
    return Found(*best, asked.tried, edge)
