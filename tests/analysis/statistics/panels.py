"""Panels whose truth is known: outcomes of a normal variable above 0, so that expected accuracies are."""

import numpy as np
import pandas as pd
from scipy.stats import norm

from knots.analysis.statistics import Panel

LEVELS = np.array([0.3, 0.6])
CEILING = 1.5


def drawn_panel(
    generator: np.random.Generator, universes: int, *, spread: float, items: int = 100, tasks: int = 2
) -> tuple[Panel, np.ndarray]:
    """Two predictors "a" and "b" with a reference, and their true normalized averages.

    Whether a predictor gets an item right depends on its level, the item, the universe (deviation `spread`),
    the item in this universe, and chance. The reference depends on no universe but by chance.
    """
    right, reference = {}, {}
    luck = spread * generator.normal(size=(universes, 2, 1))
    for task in range(tasks):
        item = generator.normal(size=items)
        within = 0.5 * generator.normal(size=(universes, 1, items))
        chance = generator.normal(size=(universes, 2, items))
        right[f"task {task}"] = LEVELS[:, None] + luck + item + within + chance > 0
        reference[f"task {task}"] = CEILING + item + 0.7 * generator.normal(size=(universes, items)) > 0
    truth = norm.cdf(LEVELS / np.sqrt(spread**2 + 2.25)) / norm.cdf(CEILING / np.sqrt(1.49))
    return Panel(tuple(right), ("a", "b"), right, reference, np.ones((2, tasks), bool)), truth


def predictions(
    right: np.ndarray, *, task: str = "digits", labels: np.ndarray | None = None, ranks: bool = False
) -> pd.DataFrame:
    """A table of predictions with the given outcomes [N]."""
    labels = np.arange(len(right)) % 7 if labels is None else labels
    table = pd.DataFrame({"task": task, "item": np.arange(len(right)), "label": labels})
    table["prediction"] = np.where(right, labels, labels + 1)
    if ranks:
        table["joint_rank"] = np.where(right, 1, 4)
    return table
