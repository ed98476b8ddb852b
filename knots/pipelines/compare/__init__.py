"""Whether two sets of stored predictions differ: runs, or files made elsewhere."""

from knots.pipelines.compare.plan import ComparePlan, parse_compare
from knots.pipelines.compare.predictions import Predictions, read_predictions
from knots.pipelines.compare.run import Compared, Difference, run_compare

__all__ = [
    "ComparePlan",
    "Compared",
    "Difference",
    "Predictions",
    "parse_compare",
    "read_predictions",
    "run_compare",
]
