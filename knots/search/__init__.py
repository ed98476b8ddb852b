"""Search over merge options: what is tried, in which order, and what is kept of it.

A procedure asks for the values of candidates and says which is best; it knows nothing of models or data. All
of them are deterministic, so a search that was cut off is gone on with by running it again over its log of
trials: what is in there is not scored again.
"""

from knots.search.axes import Axis, Found, Options, Score
from knots.search.grid import grid_search
from knots.search.line import line_search
from knots.search.log import TrialLog
from knots.search.trials import Trial, value_of
from knots.search.with_optuna import Range, optuna_search

__all__ = [
    "Axis",
    "Found",
    "Options",
    "Range",
    "Score",
    "Trial",
    "TrialLog",
    "grid_search",
    "line_search",
    "optuna_search",
    "value_of",
]
