"""Methods over several sets of adapters that were trained independently: what is luck, and what is method."""

from knots.pipelines.reproduce.universes.plan import UniversesPlan, in_universe, parse_universes
from knots.pipelines.reproduce.universes.run import (
    Outcomes,
    collect,
    fine_tuned,
    run_universes,
    universe_panel,
)

__all__ = [
    "Outcomes",
    "UniversesPlan",
    "collect",
    "fine_tuned",
    "in_universe",
    "parse_universes",
    "run_universes",
    "universe_panel",
]
