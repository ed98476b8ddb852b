"""`vehicles`: side views on a road, on rails, on water or in the air, driving either way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from knots.suites.miniature.canvas import Colour, Pen, Pixels, Style, blank, jitter, photograph, random_view

TYRE: Colour = (25, 25, 28)


def draw_vehicle(label: int, style: Style, rng: np.random.Generator) -> Pixels:
    """One vehicle in any paint before a backdrop with a strip of ground; half of them drive to the left."""
    backdrop = jitter(((170, 190, 205), (150, 160, 140), (195, 180, 165))[int(rng.integers(0, 3))], 35, rng)
    paint: Colour = tuple(rng.integers(30, 236, 3).tolist())
    glass = jitter((215, 235, 245) if sum(paint) < 420 else (60, 75, 90), 15, rng)
    pen = Pen(blank(backdrop))
    view = random_view(pen, style, rng, tilt=0.14, zoom=0.3)
    if rng.random() < 0.5:
        a, b, c, d, e, f = view.view
        view = Pen(view.image, (-a, b, c, -d, e, f))
    view.box(-3, 0.5, 3, 3, jitter((90, 90, 95), 25, rng))
    for _ in range(int(rng.integers(0, 1 + round(4 * style.strength)))):
        x, y, w, h = (rng.uniform(-1, 1, 4) * (1, 0.6, 0.3, 0.5)).tolist()
        pen.box(x - w, y - h, x + w, y + h, jitter(backdrop, 35, rng))
    _VEHICLES[label](view, paint, glass, rng)
    return photograph(pen.image, style, rng)


def _wheels(pen: Pen, *places: float, radius: float = 0.18) -> None:
    for x in places:
        pen.ellipse(x, 0.5, radius, radius, TYRE)
        pen.ellipse(x, 0.5, 0.4 * radius, 0.4 * radius, (170, 170, 175))


def _car(pen: Pen, paint: Colour, glass: Colour, rng: np.random.Generator) -> None:
    pen.polygon([(-0.55, 0.1), (-0.35, -0.28), (0.25, -0.28), (0.5, 0.1)], paint)
    pen.polygon([(-0.42, 0.08), (-0.29, -0.2), (0.2, -0.2), (0.38, 0.08)], glass)
    pen.box(-0.85, 0.08, 0.88, 0.45, paint)
    _wheels(pen, -0.5, float(rng.uniform(0.45, 0.55)))


def _van(pen: Pen, paint: Colour, glass: Colour, rng: np.random.Generator) -> None:
    pen.polygon([(-0.8, -0.45), (0.4, -0.45), (0.8, 0.05), (0.85, 0.45), (-0.8, 0.45)], paint)
    pen.polygon([(0.12, -0.35), (0.37, -0.35), (0.64, 0.03), (0.12, 0.03)], glass)
    _wheels(pen, -0.5, float(rng.uniform(0.45, 0.55)))


def _bus(pen: Pen, paint: Colour, glass: Colour, rng: np.random.Generator) -> None:
    pen.box(-0.95, -0.45, 0.95, 0.45, paint)
    for x in (-0.85, -0.5, -0.15, 0.2, 0.55):
        pen.box(x, -0.32, x + 0.26, 0.0, glass)
    _wheels(pen, -0.58, float(rng.uniform(0.52, 0.62)), radius=0.16)


def _truck(pen: Pen, paint: Colour, glass: Colour, rng: np.random.Generator) -> None:
    pen.box(-0.95, -0.6, 0.35, 0.35, paint)
    cab = jitter(paint, 60, rng)
    pen.polygon([(0.42, -0.25), (0.72, -0.25), (0.92, 0.08), (0.92, 0.45), (0.42, 0.45)], cab)
    pen.polygon([(0.55, -0.16), (0.7, -0.16), (0.82, 0.08), (0.55, 0.08)], glass)
    pen.box(-0.9, 0.33, 0.6, 0.43, TYRE)
    _wheels(pen, -0.7, -0.3, 0.66)


def _pickup(pen: Pen, paint: Colour, glass: Colour, rng: np.random.Generator) -> None:
    pen.box(-0.92, 0.02, 0.9, 0.42, paint)
    pen.polygon([(-0.05, 0.05), (0.0, -0.36), (0.36, -0.36), (0.55, 0.05)], paint)
    pen.polygon([(0.08, 0.02), (0.1, -0.27), (0.32, -0.27), (0.44, 0.02)], glass)
    _wheels(pen, -0.58, float(rng.uniform(0.5, 0.6)), radius=0.21)


def _tractor(pen: Pen, paint: Colour, glass: Colour, rng: np.random.Generator) -> None:
    pen.box(-0.05, -0.08, 0.72, 0.3, paint)
    pen.box(-0.6, -0.62, 0.0, 0.2, paint)
    pen.box(-0.5, -0.52, -0.1, -0.12, glass)
    pen.box(0.4, -0.42, 0.48, -0.05, TYRE)
    pen.ellipse(-0.4, 0.3, 0.42, 0.42, TYRE)
    pen.ellipse(-0.4, 0.3, 0.17, 0.17, jitter(paint, 40, rng))
    pen.ellipse(0.55, 0.5, 0.21, 0.21, TYRE)


def _train(pen: Pen, paint: Colour, glass: Colour, rng: np.random.Generator) -> None:
    pen.box(-3, 0.56, 3, 0.64, TYRE)
    nose = float(rng.uniform(0.4, 0.8))
    pen.polygon([(-2, -0.42), (nose - 0.2, -0.42), (nose + 0.2, 0.2), (nose + 0.2, 0.46), (-2, 0.46)], paint)
    pen.box(-2, -0.25, nose - 0.4, -0.02, glass)
    pen.box(-2, 0.12, nose + 0.1, 0.2, glass)
    for x in (-0.8, -0.55, 0.1, 0.35):
        pen.ellipse(x, 0.5, 0.1, 0.1, TYRE)


def _bicycle(pen: Pen, paint: Colour, glass: Colour, rng: np.random.Generator) -> None:
    del glass
    for x in (-0.5, 0.5):
        ring = [(x + 0.36 * c, 0.3 + 0.36 * s) for c, s in _RING]
        pen.line(ring, 0.09, TYRE)
    tube = _contrast(paint)
    high = float(rng.uniform(-0.3, -0.2))
    pen.line([(-0.5, 0.3), (-0.2, high), (0.38, high), (0.05, 0.3), (-0.5, 0.3)], 0.09, tube)
    pen.line([(-0.2, high), (0.05, 0.3)], 0.09, tube)
    pen.line([(0.5, 0.3), (0.36, high - 0.2), (0.2, high - 0.24)], 0.09, tube)
    pen.line([(-0.34, high - 0.08), (-0.1, high - 0.08)], 0.12, TYRE)


def _sailboat(pen: Pen, paint: Colour, glass: Colour, rng: np.random.Generator) -> None:
    pen.polygon([(-0.75, 0.28), (0.8, 0.28), (0.55, 0.6), (-0.55, 0.6)], paint)
    pen.box(-0.04, -0.9, 0.04, 0.3, TYRE)
    sail = jitter(glass, 30, rng)
    pen.polygon([(0.09, -0.85), (0.09, 0.18), (0.7, 0.18)], sail)
    pen.polygon([(-0.09, -0.7), (-0.09, 0.18), (-0.55, 0.18)], sail)


def _airplane(pen: Pen, paint: Colour, glass: Colour, rng: np.random.Generator) -> None:
    y = float(rng.uniform(-0.2, 0.05))
    pen.ellipse(0, y, 0.92, 0.17, paint)
    pen.polygon([(-0.88, y), (-0.92, y - 0.42), (-0.7, y - 0.42), (-0.5, y)], paint)
    pen.polygon([(0.2, y), (-0.15, y + 0.5), (-0.35, y + 0.5), (-0.2, y)], _contrast(paint))
    pen.box(-0.4, y - 0.08, 0.6, y, glass)


_RING = [(float(np.cos(a)), float(np.sin(a))) for a in np.linspace(0, 2 * np.pi, 15)]


def _contrast(colour: Colour) -> Colour:
    r, g, b = (channel // 2 if sum(colour) > 300 else 255 - (255 - channel) // 2 for channel in colour)
    return r, g, b


VEHICLES: dict[str, Callable[[Pen, Colour, Colour, np.random.Generator], None]] = {
    "car": _car,
    "van": _van,
    "bus": _bus,
    "truck": _truck,
    "pickup": _pickup,
    "tractor": _tractor,
    "train": _train,
    "bicycle": _bicycle,
    "sailboat": _sailboat,
    "airplane": _airplane,
}
"""How each vehicle is drawn with its wheels at y = 0.5, driving to the right."""

_VEHICLES = tuple(VEHICLES.values())
