"""`scenes`: places with a sky, a ground and one thing that names them, at any time of day."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from knots.suites.miniature.canvas import Colour, Pen, Pixels, Style, blank, jitter, photograph, random_view

SKIES: tuple[Colour, ...] = ((150, 195, 235), (235, 160, 110), (30, 35, 70), (200, 205, 210), (215, 190, 220))
GROUNDS: tuple[Colour, ...] = ((110, 140, 75), (70, 80, 50), (190, 165, 115), (230, 230, 235), (60, 60, 70))


def draw_scene(label: int, style: Style, rng: np.random.Generator) -> Pixels:
    """Sky and ground of any season, then the subject, then bushes or clouds in the way."""
    sky = jitter(SKIES[int(rng.integers(0, len(SKIES)))], 30, rng)
    ground = jitter(GROUNDS[int(rng.integers(0, len(GROUNDS)))], 30, rng)
    # What stands before the sky must differ from it, or nothing could be told.
    dark = sum(sky) > 330
    thing = jitter((70, 60, 65) if dark else (190, 180, 175), 35, rng)
    pen = Pen(blank(sky))
    view = random_view(pen, style, rng, tilt=0.12, zoom=0.2)
    view.box(-2, 0.35, 2, 3, ground)
    _SCENES[label](view, thing, ground, rng)
    for _ in range(int(rng.integers(0, 1 + round(3 * style.strength)))):
        x, y, r = (rng.uniform(-1, 1, 3) * (1, 0.9, 0.1)).tolist()
        pen.ellipse(x, y, 0.24 + r, 0.12 + 0.5 * r, jitter(sky if y < 0.2 else ground, 60, rng))
    return photograph(pen.image, style, rng)


def _mountains(pen: Pen, thing: Colour, ground: Colour, rng: np.random.Generator) -> None:
    del ground
    for x in (-0.8, 0.1, 0.85):
        peak, top, wide = float(x + rng.uniform(-0.2, 0.2)), float(rng.uniform(-0.7, -0.2)), 0.7
        pen.polygon([(peak - wide, 0.36), (peak, top), (peak + wide, 0.36)], jitter(thing, 25, rng))


def _hills(pen: Pen, thing: Colour, ground: Colour, rng: np.random.Generator) -> None:
    del ground
    for x in (-0.75, 0.75, 0.0):
        middle, high = float(x + rng.uniform(-0.2, 0.2)), float(rng.uniform(0.35, 0.75))
        pen.ellipse(middle, 0.42, 0.75, high, jitter(thing, 25, rng))


def _skyline(pen: Pen, thing: Colour, ground: Colour, rng: np.random.Generator) -> None:
    del ground
    for x in np.arange(-1.2, 1.2, 0.3).tolist():
        pen.box(x, float(rng.uniform(-0.8, 0.15)), x + 0.27, 0.4, jitter(thing, 25, rng))


def _lighthouse(pen: Pen, thing: Colour, ground: Colour, rng: np.random.Generator) -> None:
    del ground
    x = float(rng.uniform(-0.5, 0.5))
    pen.polygon([(x - 0.2, 0.5), (x - 0.11, -0.6), (x + 0.11, -0.6), (x + 0.2, 0.5)], thing)
    pen.box(x - 0.2, -0.66, x + 0.2, -0.56, thing)
    pen.box(x - 0.1, -0.86, x + 0.1, -0.6, thing)


def _bridge(pen: Pen, thing: Colour, ground: Colour, rng: np.random.Generator) -> None:
    del ground
    deck, half = float(rng.uniform(0.05, 0.2)), float(rng.uniform(0.45, 0.6))
    pen.box(-1.5, deck, 1.5, deck + 0.14, thing)
    for x in (-half, half):
        pen.box(x - 0.07, deck - 0.7, x + 0.07, 0.6, thing)
    cable = [(x, deck - 0.65 * (x / half) ** 2) for x in np.linspace(-half, half, 9).tolist()]
    pen.line(cable, 0.08, thing)
    for side in (-1, 1):
        pen.line([(side * half, deck - 0.65), (side * 1.4, deck)], 0.08, thing)


def _windmill(pen: Pen, thing: Colour, ground: Colour, rng: np.random.Generator) -> None:
    del ground
    x, start = float(rng.uniform(-0.35, 0.35)), float(rng.uniform(0, math.pi / 2))
    pen.polygon([(x - 0.26, 0.5), (x - 0.14, -0.2), (x + 0.14, -0.2), (x + 0.26, 0.5)], thing)
    for i in range(4):
        c, s = 0.68 * math.cos(start + i * math.pi / 2), 0.68 * math.sin(start + i * math.pi / 2)
        pen.line([(x, -0.2), (x + c, -0.2 + s)], 0.13, thing)


def _road(pen: Pen, thing: Colour, ground: Colour, rng: np.random.Generator) -> None:
    x, far = float(rng.uniform(-0.35, 0.35)), float(rng.uniform(-0.4, 0.4))
    pen.polygon([(far - 0.05, 0.35), (far + 0.05, 0.35), (x + 0.8, 1.3), (x - 0.8, 1.3)], _contrast(ground))
    for side, near in ((-1, 1.0), (1, 0.95)):
        for step in (0.35, 0.65, 1.0):
            px = far + side * (0.1 + near * step)
            pen.box(px - 0.04 * step, 0.42 - 0.75 * step, px + 0.04 * step, 0.42 + 0.2 * step, thing)


def _village(pen: Pen, thing: Colour, ground: Colour, rng: np.random.Generator) -> None:
    del ground
    for x in (-0.7, 0.0, 0.7):
        middle, y = (rng.uniform(-0.1, 0.1, 2) + np.array((x, 0.3))).tolist()
        wall = jitter(thing, 30, rng)
        pen.box(middle - 0.26, y - 0.25, middle + 0.26, y + 0.2, wall)
        pen.polygon(
            [(middle - 0.34, y - 0.25), (middle, y - 0.6), (middle + 0.34, y - 0.25)], _contrast(wall)
        )


def _pines(pen: Pen, thing: Colour, ground: Colour, rng: np.random.Generator) -> None:
    del ground
    for x in (-0.75, -0.25, 0.25, 0.75):
        middle, base = (rng.uniform(-0.1, 0.1, 2) + np.array((x, 0.45))).tolist()
        pen.box(middle - 0.05, base - 0.1, middle + 0.05, base + 0.18, thing)
        for level in (0.0, 0.32, 0.62):
            pen.polygon([(middle - 0.24 + 0.08 * level, base - level), (middle, base - level - 0.48),
                         (middle + 0.24 - 0.08 * level, base - level)], thing)  # fmt: skip


def _waterfall(pen: Pen, thing: Colour, ground: Colour, rng: np.random.Generator) -> None:
    del ground
    x, wide = float(rng.uniform(-0.4, 0.4)), float(rng.uniform(0.14, 0.24))
    pen.box(-1.6, -0.5, 1.6, 0.7, thing)
    water = _contrast(thing)
    pen.box(x - wide, -0.5, x + wide, 0.72, water)
    pen.ellipse(x, 0.78, 0.65, 0.2, water)


def _contrast(colour: Colour) -> Colour:
    """A colour of the same hue that is far lighter or far darker."""
    r, g, b = (channel // 3 if sum(colour) > 380 else 255 - (255 - channel) // 3 for channel in colour)
    return r, g, b


SCENES: dict[str, Callable[[Pen, Colour, Colour, np.random.Generator], None]] = {
    "mountains": _mountains,
    "hills": _hills,
    "skyline": _skyline,
    "lighthouse": _lighthouse,
    "bridge": _bridge,
    "windmill": _windmill,
    "country road": _road,
    "village": _village,
    "pine trees": _pines,
    "waterfall": _waterfall,
}
"""How each place is drawn before its sky and on its ground."""

_SCENES = tuple(SCENES.values())
