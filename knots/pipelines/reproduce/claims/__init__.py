"""The paper's claims, each with an estimate, its interval, and a verdict that nothing forces to agree."""

from knots.pipelines.reproduce.claims.plan import ClaimsPlan, parse_claims
from knots.pipelines.reproduce.claims.run import run_claims

__all__ = ["ClaimsPlan", "parse_claims", "run_claims"]
