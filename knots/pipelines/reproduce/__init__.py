"""The paper's experiments: run what is missing, put it beside what was published, and keep both together."""

from knots.pipelines.reproduce.run import (
    KINDS,
    Reproduced,
    Reproduction,
    parse_experiment,
    run_experiment,
)

__all__ = ["KINDS", "Reproduced", "Reproduction", "parse_experiment", "run_experiment"]
