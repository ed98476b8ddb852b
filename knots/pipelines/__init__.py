"""What the entry points run, with plain arguments: load, merge, evaluate, keep."""

from knots.pipelines.merge import Outcome, run_merge
from knots.pipelines.plans import MergePlan, parse_merge

__all__ = ["MergePlan", "Outcome", "parse_merge", "run_merge"]
