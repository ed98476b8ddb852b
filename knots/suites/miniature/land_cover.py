"""`land_cover`: the ground seen straight from above, as satellites see it, any side up."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from knots.suites.miniature.canvas import DRAWN, Colour, Pen, Pixels, Point, Style, jitter, photograph

GRASS, WATER, SOIL, ROAD, TREE = (120, 150, 90), (50, 90, 140), (170, 145, 100), (190, 185, 180), (45, 85, 45)
ROOF, HALL = (180, 95, 75), (205, 210, 220)


def draw_land_cover(label: int, style: Style, rng: np.random.Generator) -> Pixels:
    """A patch of ground, turned by any angle; its cover mottled more at strength 1."""
    ground = jitter((GRASS, SOIL)[int(rng.integers(0, 2))], 25, rng)
    pen = Pen(_mottled(ground, 10 + 25 * style.strength, rng))
    turned = pen.turned(
        float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(1, 1 + 0.4 * style.strength)), (0, 0)
    )
    _COVERS[label](turned, rng)
    return photograph(pen.image, style, rng)


def _mottled(colour: Colour, amount: float, rng: np.random.Generator) -> Image.Image:
    """A ground of 8 x 8 patches around one colour."""
    patches = np.asarray(colour) + rng.uniform(-amount, amount, (8, 8, 1))
    return Image.fromarray(patches.clip(0, 255).astype(np.uint8)).resize(
        (DRAWN, DRAWN), Image.Resampling.BILINEAR
    )


def _wander(rng: np.random.Generator, bend: float) -> list[Point]:
    """A line across the picture that bends like a wave."""
    phase, offset = rng.uniform(0, 2 * math.pi), rng.uniform(-0.3, 0.3)
    return [
        (x, float(offset + bend * math.sin(2.6 * x + phase))) for x in np.linspace(-1.7, 1.7, 12).tolist()
    ]


def _forest(pen: Pen, rng: np.random.Generator) -> None:
    tree = jitter(TREE, 20, rng)
    for x, y, r, tone in rng.uniform(-1, 1, (38, 4)).tolist():
        pen.ellipse(1.4 * x, 1.4 * y, 0.2 + 0.06 * r, 0.2 + 0.06 * r, _shade(tree, 1 + 0.45 * tone))


def _river(pen: Pen, rng: np.random.Generator) -> None:
    pen.line(
        _wander(rng, float(rng.uniform(0.3, 0.5))), float(rng.uniform(0.25, 0.42)), jitter(WATER, 25, rng)
    )


def _highway(pen: Pen, rng: np.random.Generator) -> None:
    offset, width = float(rng.uniform(-0.4, 0.4)), float(rng.uniform(0.1, 0.14))
    asphalt = jitter(ROAD, 20, rng)
    for side in (-1.3, 1.3):
        pen.line([(-1.8, offset + side * width), (1.8, offset + side * width)], 1.2 * width, asphalt)


def _farmland(pen: Pen, rng: np.random.Generator) -> None:
    soil, step = jitter(SOIL, 25, rng), float(rng.uniform(0.22, 0.36))
    for y in np.arange(-1.7 + rng.uniform(0, step), 1.7, step).tolist():
        pen.box(-1.7, y, 1.7, y + 0.5 * step, _shade(soil, 0.65))


def _residential(pen: Pen, rng: np.random.Generator) -> None:
    pen.line([(-1.8, 0), (1.8, 0)], 0.12, jitter(ROAD, 20, rng))
    for row in (-1.15, -0.45, 0.45, 1.15):
        for x in np.arange(-1.5 + rng.uniform(0, 0.3), 1.6, 0.52).tolist():
            w, h = rng.uniform(0.12, 0.2, 2).tolist()
            pen.box(x - w, row - h, x + w, row + h, jitter(ROOF, 35, rng))


def _industrial(pen: Pen, rng: np.random.Generator) -> None:
    for x, y in ((-0.6, -0.55), (0.65, -0.45), (-0.5, 0.6), (0.6, 0.65)):
        if rng.random() < 0.85:
            w, h = rng.uniform(0.3, 0.52, 2).tolist()
            roof = jitter(HALL, 30, rng)
            pen.box(x - w, y - h, x + w, y + h, roof)
            pen.box(x - 0.06, y - h, x + 0.06, y + h, _shade(roof, 0.75))


def _lake(pen: Pen, rng: np.random.Generator) -> None:
    x, y = rng.uniform(-0.25, 0.25, 2).tolist()
    radii = (rng.uniform(0.5, 0.75) * (1 + 0.22 * rng.uniform(-1, 1, 14))).tolist()
    shore = [(x + r * math.cos(i * 0.449), y + r * math.sin(i * 0.449)) for i, r in enumerate(radii)]
    pen.polygon(shore, jitter(WATER, 25, rng))


def _orchard(pen: Pen, rng: np.random.Generator) -> None:
    tree, step = jitter(TREE, 25, rng), float(rng.uniform(0.42, 0.56))
    x0, y0 = rng.uniform(0, step, 2).tolist()
    for x in np.arange(-1.6 + x0, 1.6, step).tolist():
        for y in np.arange(-1.6 + y0, 1.6, step).tolist():
            pen.ellipse(x, y, 0.3 * step, 0.3 * step, tree)


def _coast(pen: Pen, rng: np.random.Generator) -> None:
    line = _wander(rng, 0.12)
    pen.polygon([*line, (1.8, 2.2), (-1.8, 2.2)], jitter(WATER, 25, rng))
    pen.line(line, 0.14, jitter((225, 215, 180), 15, rng))


def _airport(pen: Pen, rng: np.random.Generator) -> None:
    slab, angle = jitter(ROAD, 20, rng), float(rng.uniform(0.9, 1.5))
    c, s = 1.8 * math.cos(angle), 1.8 * math.sin(angle)
    pen.line([(-1.8, 0), (1.8, 0)], 0.3, slab)
    pen.line([(-c, -s), (c, s)], 0.3, slab)


def _shade(colour: Colour, factor: float) -> Colour:
    r, g, b = (min(255, int(channel * factor)) for channel in colour)
    return r, g, b


COVERS: dict[str, Callable[[Pen, np.random.Generator], None]] = {
    "forest": _forest,
    "river": _river,
    "highway": _highway,
    "farmland": _farmland,
    "residential": _residential,
    "industrial": _industrial,
    "lake": _lake,
    "orchard": _orchard,
    "coast": _coast,
    "airport": _airport,
}
"""How each kind of cover is drawn on the mottled ground."""

_COVERS = tuple(COVERS.values())
