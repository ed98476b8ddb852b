"""Bayesian search by optuna, which we ask for candidates and tell their values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from knots.search.axes import Asked, Found, Options, Score, edge_of


@dataclass(frozen=True)
class Range:
    """One option and the values it may take: from `low` to `high` in steps.

    Attributes:
        name: of the option.
        low: the least value.
        high: the largest; a whole number of steps above.
        step: between two neighbours.
    """

    name: str
    low: float
    high: float
    step: float


def optuna_search(score: Score, ranges: Sequence[Range], *, trials: int, seed: int) -> Found:
    """Ask a seeded tree-structured Parzen estimator for candidates, one after the other.

    A candidate follows from the seed and the values before it alone. So the search is gone on with by asking
    again from the start, with a score that knows the earlier values; optuna's own storage is not used.

    Args:
        score: gives a candidate's value.
        ranges: of the options.
        trials: how often optuna is asked; it may ask for a candidate again, which is not scored again.
        seed: of the estimator.
    """
    import optuna

    asked = Asked(score)
    best: tuple[Options, float] | None = None
    with _quiet():
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        for _ in range(trials):
            trial = study.ask()
            options = {r.name: _suggest(trial, r) for r in ranges}
            value = asked(options)
            study.tell(trial, value)
            if best is None or value > best[1]:
                best = options, value
    assert best is not None
    edge = {r.name: edge_of(best[0][r.name], r.low, r.high) for r in ranges}
    return Found(*best, asked.tried, edge)


def _suggest(trial: object, r: Range) -> float:
    value = trial.suggest_float(r.name, r.low, r.high, step=r.step)  # type: ignore[attr-defined]
    # Steps add up to 0.30000000000000004.
    return round(float(value), 6)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without optuna's lines on every study."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
