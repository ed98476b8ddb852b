"""Which differences are real: paired tests, bootstraps over universes and items, power, rankings.

All numbers are fractions. Nothing here reads run folders.
"""

from knots.analysis.statistics.agreement import Concordance, concordance, rank_correlation
from knots.analysis.statistics.paired import holm, mcnemar, normal_p
from knots.analysis.statistics.panel import Panel, panel
from knots.analysis.statistics.power import DISCORDANT, detectable, detectable_by, planned_error
from knots.analysis.statistics.units import mean_of_units
from knots.analysis.statistics.universes import Draws, Estimate, drawn_estimate, hierarchical

__all__ = [
    "DISCORDANT",
    "Concordance",
    "Draws",
    "Estimate",
    "Panel",
    "concordance",
    "detectable",
    "detectable_by",
    "drawn_estimate",
    "hierarchical",
    "holm",
    "mcnemar",
    "mean_of_units",
    "normal_p",
    "panel",
    "planned_error",
    "rank_correlation",
]
