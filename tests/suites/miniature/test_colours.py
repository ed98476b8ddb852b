"""The tasks need shape: what an image's colours alone tell is little."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from knots.suites.miniature import TASKS, draw_split
from tests.suites.miniature.test_splits import config

LIMIT = 0.5


def histograms(images):
    """Shares of 8 x 8 x 8 colours, square-rooted: [N, 512]."""
    bins = (images // 32).astype(np.int64) @ np.array([64, 8, 1])
    return np.sqrt(np.stack([np.bincount(image.ravel(), minlength=512) for image in bins]) / 1024)


def accuracies(task, train, test):
    """Accuracy on the test split of two classifiers that see colours only."""
    (images, labels), (others, truth) = (draw_split(task, *split, seed=0) for split in (train, test))
    seen, unseen = histograms(images), histograms(others)
    models = LogisticRegression(C=3.0, max_iter=1000), KNeighborsClassifier(10)
    return {type(model).__name__: float(model.fit(seen, labels).score(unseen, truth)) for model in models}


@pytest.mark.parametrize("task", ["digits", "land_cover", "scenes"])
def test_colours_alone_solve_little(task):
    assert max(accuracies(task, ("train", 800), ("test", 400)).values()) <= LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_colours_alone_solve_little_at_full_size(task):
    sizes = config(task)["sizes"]
    found = accuracies(task, ("train", sizes["train"]), ("test", sizes["test"]))
    assert max(found.values()) <= LIMIT, found
