"""`signs`: a traffic sign's shape and pictogram on a busy roadside."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from knots.suites.miniature.canvas import (
    Colour,
    Pen,
    Pixels,
    Point,
    Style,
    blank,
    jitter,
    photograph,
    random_view,
)

RED, BLUE, YELLOW, WHITE, BLACK = (200, 30, 40), (30, 80, 190), (240, 200, 40), (240, 240, 240), (25, 25, 25)
_ROADSIDE: tuple[Colour, ...] = (
    (120, 150, 180),
    (90, 120, 80),
    (140, 130, 120),
    (70, 75, 85),
    (190, 200, 210),
)


def draw_sign(label: int, style: Style, rng: np.random.Generator) -> Pixels:
    """One sign, tilted and shifted, before a wall, a sky or shrubs."""
    backdrop = jitter(_ROADSIDE[int(rng.integers(0, len(_ROADSIDE)))], 40, rng)
    pen = Pen(blank(backdrop))
    for _ in range(int(rng.integers(0, 1 + round(5 * style.strength)))):
        x, y, w, h = (rng.uniform(-1, 1, 4) * (1, 1, 0.5, 0.5)).tolist()
        pen.box(x - w, y - h, x + w, y + h, jitter(backdrop, 60, rng))
    _SIGNS[label](random_view(pen, style, rng, tilt=0.35, zoom=0.35), rng)
    return photograph(pen.image, style, rng)


def _regular(corners: int, radius: float, start: float) -> list[Point]:
    angles = [start + 2 * math.pi * i / corners for i in range(corners)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


def _disc(pen: Pen, rim: Colour, face: Colour) -> None:
    pen.ellipse(0, 0, 0.85, 0.85, rim)
    pen.ellipse(0, 0, 0.66, 0.66, face)


def _triangle(pen: Pen) -> None:
    pen.polygon(_regular(3, 1.0, -math.pi / 2), RED)
    pen.polygon(_regular(3, 0.68, -math.pi / 2), WHITE)


def _arrow(pen: Pen, angle: float, colour: Colour) -> None:
    """An arrow through the middle that points to the right, then turned by `angle`."""
    shape = [
        (-0.5, -0.11),
        (0.08, -0.11),
        (0.08, -0.36),
        (0.55, 0.0),
        (0.08, 0.36),
        (0.08, 0.11),
        (-0.5, 0.11),
    ]
    c, s = math.cos(angle), math.sin(angle)
    pen.polygon([(c * x - s * y, s * x + c * y) for x, y in shape], colour)


def _turn_left(pen: Pen, rng: np.random.Generator) -> None:
    _disc(pen, jitter(BLUE, 30, rng), jitter(BLUE, 30, rng))
    _arrow(pen, math.pi, WHITE)


def _turn_right(pen: Pen, rng: np.random.Generator) -> None:
    _disc(pen, jitter(BLUE, 30, rng), jitter(BLUE, 30, rng))
    _arrow(pen, 0.0, WHITE)


def _straight_ahead(pen: Pen, rng: np.random.Generator) -> None:
    _disc(pen, jitter(BLUE, 30, rng), jitter(BLUE, 30, rng))
    _arrow(pen, -math.pi / 2, WHITE)


def _no_entry(pen: Pen, rng: np.random.Generator) -> None:
    colour = jitter(RED, 30, rng)
    _disc(pen, colour, colour)
    pen.box(-0.55, -0.17, 0.55, 0.17, WHITE)


def _no_passing(pen: Pen, rng: np.random.Generator) -> None:
    _disc(pen, jitter(RED, 30, rng), WHITE)
    pen.ellipse(-0.28, 0, 0.2, 0.28, RED)
    pen.ellipse(0.28, 0, 0.2, 0.28, BLACK)


def _end_of_limits(pen: Pen, rng: np.random.Generator) -> None:
    _disc(pen, jitter((90, 90, 90), 30, rng), WHITE)
    pen.line([(-0.5, 0.5), (0.5, -0.5)], 0.22, BLACK)


def _no_stopping(pen: Pen, rng: np.random.Generator) -> None:
    _disc(pen, jitter(RED, 30, rng), jitter(BLUE, 30, rng))
    pen.line([(-0.5, 0.5), (0.5, -0.5)], 0.17, RED)
    pen.line([(-0.5, -0.5), (0.5, 0.5)], 0.17, RED)


def _closed_road(pen: Pen, rng: np.random.Generator) -> None:
    pen.ellipse(0, 0, 0.85, 0.85, jitter(RED, 30, rng))
    pen.ellipse(0, 0, 0.58, 0.58, WHITE)


def _danger(pen: Pen, rng: np.random.Generator) -> None:
    del rng
    _triangle(pen)
    pen.polygon([(-0.12, -0.4), (0.12, -0.4), (0.07, 0.06), (-0.07, 0.06)], BLACK)
    pen.ellipse(0, 0.2, 0.1, 0.1, BLACK)


def _crossroads(pen: Pen, rng: np.random.Generator) -> None:
    del rng
    _triangle(pen)
    pen.line([(-0.27, -0.2), (0.27, 0.28)], 0.16, BLACK)
    pen.line([(0.27, -0.2), (-0.27, 0.28)], 0.16, BLACK)


def _bumps(pen: Pen, rng: np.random.Generator) -> None:
    del rng
    _triangle(pen)
    pen.ellipse(-0.2, 0.22, 0.18, 0.2, BLACK)
    pen.ellipse(0.2, 0.22, 0.18, 0.2, BLACK)
    pen.box(-0.42, 0.2, 0.42, 0.32, BLACK)


def _give_way(pen: Pen, rng: np.random.Generator) -> None:
    pen.polygon(_regular(3, 1.0, math.pi / 2), jitter(RED, 30, rng))
    pen.polygon(_regular(3, 0.6, math.pi / 2), WHITE)


def _priority(pen: Pen, rng: np.random.Generator) -> None:
    pen.polygon(_regular(4, 0.95, 0.0), WHITE)
    pen.polygon(_regular(4, 0.7, 0.0), jitter(YELLOW, 30, rng))


def _stop(pen: Pen, rng: np.random.Generator) -> None:
    colour = jitter(RED, 30, rng)
    pen.polygon(_regular(8, 0.92, math.pi / 8), WHITE)
    pen.polygon(_regular(8, 0.82, math.pi / 8), colour)
    for x in (-0.5, -0.2, 0.1, 0.4):
        pen.box(x, -0.22, x + 0.16, 0.22, WHITE)


def _parking(pen: Pen, rng: np.random.Generator) -> None:
    colour = jitter(BLUE, 30, rng)
    pen.box(-0.75, -0.75, 0.75, 0.75, colour)
    pen.box(-0.35, -0.55, -0.12, 0.55, WHITE)
    pen.ellipse(0.02, -0.22, 0.4, 0.34, WHITE)
    pen.ellipse(0.02, -0.22, 0.18, 0.14, colour)


def _hospital(pen: Pen, rng: np.random.Generator) -> None:
    pen.box(-0.75, -0.75, 0.75, 0.75, jitter(BLUE, 30, rng))
    pen.box(-0.16, -0.52, 0.16, 0.52, WHITE)
    pen.box(-0.52, -0.16, 0.52, 0.16, WHITE)


SIGNS: dict[str, Callable[[Pen, np.random.Generator], None]] = {
    "turn left": _turn_left,
    "turn right": _turn_right,
    "straight ahead": _straight_ahead,
    "no entry": _no_entry,
    "no passing": _no_passing,
    "end of limits": _end_of_limits,
    "no stopping": _no_stopping,
    "closed road": _closed_road,
    "danger": _danger,
    "crossroads": _crossroads,
    "bumps": _bumps,
    "give way": _give_way,
    "priority": _priority,
    "stop": _stop,
    "parking": _parking,
    "hospital": _hospital,
}
"""How each sign is drawn around the middle of its pen."""

_SIGNS = tuple(SIGNS.values())
