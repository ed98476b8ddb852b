"""The real scans: each in one split, both sources in all of them."""

import numpy as np
import pytest

from knots.errors import KnotsError
from knots.suites.miniature import SPLITS, digits


def test_every_scan_is_in_exactly_one_split():
    for seed in (0, 1):
        chosen = np.concatenate([np.concatenate(digits._chosen(split, seed)) for split in SPLITS])
        assert len(chosen) == len(set(chosen.tolist())) == 5000 + 1797


@pytest.mark.parametrize("split", SPLITS)
def test_both_sources_are_in_every_class_of_every_split(split):
    for chosen in digits._chosen(split, 0):
        assert 0 < (chosen < 5000).mean() < 1


def test_another_seed_deals_the_scans_anew():
    assert not np.array_equal(digits._chosen("test", 0)[3], digits._chosen("test", 1)[3])


def test_labels_belong_to_their_scans():
    images, labels = digits.scan_split("train", 4000, 0)
    means = np.stack([images[labels == label].mean(axis=0) for label in range(10)])
    distances = ((images[:, None, ::4, ::4, 0] - means[None, :, ::4, ::4, 0]) ** 2).sum(axis=(2, 3))
    assert (distances.argmin(axis=1) == labels).mean() > 0.5


def test_more_scans_than_there_are_is_an_error():
    with pytest.raises(KnotsError, match="the test split holds 2000 real scans, 2001 were asked for"):
        digits.scan_split("test", 2001, 0)
