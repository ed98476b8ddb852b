"""The pictures of `mini_vision8`: eight small tasks of 32 x 32 pixels that need no download.

One task is real scans, seven are drawn. A split is drawn from its own seed, so the same call gives the same
pictures anywhere that Pillow, NumPy and the fonts agree, and train, validation and test never share one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from knots.errors import KnotsError, unknown
from knots.suites.miniature.canvas import SIZE, Pixels, Style
from knots.suites.miniature.digits import scan_split
from knots.suites.miniature.glyphs import DIGITS, FONTS, LETTERS, draw_letter, draw_street_number
from knots.suites.miniature.land_cover import COVERS, draw_land_cover
from knots.suites.miniature.scenes import SCENES, draw_scene
from knots.suites.miniature.signs import SIGNS, draw_sign
from knots.suites.miniature.textures import PATTERNS, draw_texture
from knots.suites.miniature.vehicles import VEHICLES, draw_vehicle

VERSION = 2
"""Raised whenever a picture changes: everything cached or measured from older ones is out of date."""

SPLITS = ("train", "validation", "test")

Drawer = Callable[[int, Style, np.random.Generator], Pixels]
"""(label, style, generator) -> one picture, uint8 [SIZE, SIZE, 3]."""


@dataclass(frozen=True)
class DrawnTask:
    """A task's class names in the order of their labels, and who draws them (None: real scans)."""

    classes: tuple[str, ...]
    draw: Drawer | None


TASKS: Mapping[str, DrawnTask] = {
    "digits": DrawnTask(DIGITS, None),
    "street_numbers": DrawnTask(DIGITS, draw_street_number),
    "letters": DrawnTask(LETTERS, draw_letter),
    "textures": DrawnTask(tuple(PATTERNS), draw_texture),
    "signs": DrawnTask(tuple(SIGNS), draw_sign),
    "land_cover": DrawnTask(tuple(COVERS), draw_land_cover),
    "scenes": DrawnTask(tuple(SCENES), draw_scene),
    "vehicles": DrawnTask(tuple(VEHICLES), draw_vehicle),
}

BENCHMARK = Style(strength=1.0, fonts=FONTS)


def draw_split(task: str, split: str, count: int, seed: int) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Draw one split: images uint8 [count, 32, 32, 3] and labels int64 [count], balanced and shuffled.

    Raises:
        KnotsError: the task or split does not exist, seed or count is negative, or there are too few scans.
    """
    if task not in TASKS:
        raise unknown("miniature task", task, TASKS)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if count < 0 or seed < 0:
        raise KnotsError(f"{task}: count {count} and seed {seed} must not be negative")
    if TASKS[task].draw is None:
        return scan_split(split, count, seed)
    rng = np.random.default_rng(
        np.random.SeedSequence([seed, 100 + list(TASKS).index(task), SPLITS.index(split)])
    )
    labels = rng.permutation(np.arange(count, dtype=np.int64) % len(TASKS[task].classes))
    return draw_pictures(task, labels, BENCHMARK, rng), labels


def draw_pictures(task: str, labels: npt.NDArray[np.int64], style: Style, rng: np.random.Generator) -> Pixels:
    """Draw one picture a label of a drawn task: uint8 [len(labels), 32, 32, 3]."""
    draw = TASKS[task].draw
    if draw is None:
        raise KnotsError(f"{task} are real scans, they cannot be drawn")
    images = np.empty((len(labels), SIZE, SIZE, 3), dtype=np.uint8)
    for i, label in enumerate(labels.tolist()):
        images[i] = draw(label, style, rng)
    return images
