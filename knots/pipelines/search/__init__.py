"""Searching a method's options on one split, and measuring the best on another."""

from knots.pipelines.search.plan import Procedure, SearchPlan, parse_search
from knots.pipelines.search.run import SearchOutcome, finished_search, run_search

__all__ = ["Procedure", "SearchOutcome", "SearchPlan", "finished_search", "parse_search", "run_search"]
