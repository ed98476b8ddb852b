"""The procedure of the KnOTS paper: one option after the other, each along a line until it gets worse."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from knots.search.axes import Asked, Axis, Found, Options, Score

GoesOn = Literal[">=", ">"]

BETTER: Mapping[str, Callable[[float, float], bool]] = {">=": operator.ge, ">": operator.gt}


def line_search(score: Score, axes: Sequence[Axis], start: Options, *, goes_on: GoesOn) -> Found:
    """Search along each axis in turn, as the official code does (gstoica27/KnOTS, eval_scripts/).

    Every axis begins anew, from the best value of 0: its values are tried in their order, all other options
    at what the axes before have found (at first `start`), and the first that is worse than the best so far
    ends the axis. So an axis also scores again what the one before has scored, which costs nothing here, and
    its best may be worse than the best of the one before: the last axis decides.

    Args:
        score: gives a candidate's value, at least 0.
        axes: in the order in which they are searched.
        start: a value for each axis.
        goes_on: ">=", where an equal value goes on (the official code per task), or ">", where it ends the
            axis (jointly).

    Returns:
        The options that the last axis ended with. An axis none of whose values is better than 0 keeps the
        value that it started from; the official code fails there.
    """
    asked, better = Asked(score), BETTER[goes_on]
    options = {axis.name: start[axis.name] for axis in axes}
    for axis in axes:
        best = 0.0
        chosen = options[axis.name]
        for value in axis.values:
            found = asked({**options, axis.name: value})
            if not better(found, best):
                break
            best, chosen = found, value
        options[axis.name] = chosen
    edge = {axis.name: axis.edge(options[axis.name]) for axis in axes}
    return Found(options, asked(options), asked.tried, edge)
