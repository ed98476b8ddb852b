"""Looking at task updates: what they do to activations, how large they are, where they agree."""

from knots.pipelines.analyze.plan import AnalysisPlan, parse_analysis
from knots.pipelines.analyze.run import analysis_identity, finished_analysis, run_analysis

__all__ = ["AnalysisPlan", "analysis_identity", "finished_analysis", "parse_analysis", "run_analysis"]
