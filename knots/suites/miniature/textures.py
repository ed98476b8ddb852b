"""`textures`: patterns of two tones, described by how they repeat."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from knots.suites.miniature.canvas import DRAWN, SIZE, Pixels, Plane, Style, develop, two_tones

Mask = npt.NDArray[Any]
"""Where the first tone is: truth values or shares in [0, 1], [DRAWN, DRAWN]."""

_Y, _X = np.mgrid[0:DRAWN, 0:DRAWN].astype(np.float32) - DRAWN / 2


def draw_texture(label: int, style: Style, rng: np.random.Generator) -> Pixels:
    """A pattern with its own period, angle and tones; its paint uneven at strength 1."""
    strength = style.strength
    angle = float(rng.uniform(-1, 1)) * (0.1 + 0.5 * strength)
    period = float(rng.uniform(12 - 2 * strength, 15 + 7 * strength))
    x0, y0 = rng.uniform(0, 20, 2).tolist()
    u = (_X * math.cos(angle) + _Y * math.sin(angle) + x0) / period
    v = (_Y * math.cos(angle) - _X * math.sin(angle) + y0) / period
    mask = _PATTERNS[label](u, v, rng).astype(np.float32)
    mask = mask.reshape(SIZE, 2, SIZE, 2).mean(axis=(1, 3))
    ink, paper = (np.array(tone, dtype=np.float32) / 255 for tone in two_tones(rng, 120 - 45 * strength))
    # Without this the share of the two tones and the number of colours would give the pattern away.
    mask = mask * float(rng.uniform(1 - 0.3 * strength, 1))
    return develop(paper + mask[..., None] * (ink - paper), style, rng)


def _fraction(values: Plane) -> Plane:
    rest: Plane = values - np.floor(values)
    return rest


def _bricks(u: Plane, v: Plane, rng: np.random.Generator) -> Mask:
    row = np.floor(v)
    joint = float(rng.uniform(0.15, 0.25))
    wide = _fraction(u / 1.8 + 0.5 * (row % 2))
    return (_fraction(v) > joint) & (wide > joint / 1.8)


def _dots(u: Plane, v: Plane, rng: np.random.Generator) -> Mask:
    radius = float(rng.uniform(0.24, 0.4))
    mask: Mask = np.hypot(_fraction(u) - 0.5, _fraction(v) - 0.5) < radius
    return mask


def _checks(u: Plane, v: Plane, rng: np.random.Generator) -> Mask:
    del rng
    mask: Mask = (np.floor(1.4 * u) + np.floor(1.4 * v)) % 2
    return mask


def _stripes(u: Plane, v: Plane, rng: np.random.Generator) -> Mask:
    along = u if rng.random() < 0.5 else v
    return _fraction(along) < float(rng.uniform(0.3, 0.6))


def _zigzag(u: Plane, v: Plane, rng: np.random.Generator) -> Mask:
    bend = np.abs(_fraction(0.8 * u) - 0.5) * 2
    return _fraction(v + 0.8 * bend) < float(rng.uniform(0.35, 0.6))


def _rings(u: Plane, v: Plane, rng: np.random.Generator) -> Mask:
    x, y = (rng.uniform(-0.6, 0.6, 2) + np.array((u.mean(), v.mean()))).tolist()
    return _fraction(np.hypot(u - x, v - y)) < float(rng.uniform(0.35, 0.6))


def _grid(u: Plane, v: Plane, rng: np.random.Generator) -> Mask:
    width = float(rng.uniform(0.18, 0.3))
    return (_fraction(u) < width) | (_fraction(v) < width)


def _speckles(u: Plane, v: Plane, rng: np.random.Generator) -> Mask:
    del u, v
    coarse = int(rng.integers(2, 5))
    side = -(-DRAWN // coarse)
    cells = rng.random((side, side)) < rng.uniform(0.3, 0.6)
    return cells.repeat(coarse, 0).repeat(coarse, 1)[:DRAWN, :DRAWN]


def _scales(u: Plane, v: Plane, rng: np.random.Generator) -> Mask:
    width = float(rng.uniform(0.14, 0.24))
    arcs = np.zeros_like(u)
    for shift in (0.0, 0.5):
        x = _fraction(u + shift) - 0.5
        y = _fraction(v + shift)
        arcs = np.maximum(arcs, np.abs(np.hypot(x, y) - 0.5) < width / 2)
    return arcs


def _marble(u: Plane, v: Plane, rng: np.random.Generator) -> Mask:
    a, b, c, d = rng.uniform(0, 2 * math.pi, 4).tolist()
    warp = np.sin(1.7 * u + a) + np.sin(2.3 * v + b) + 0.7 * np.sin(2.9 * (u + v) + c)
    mask: Mask = 0.5 + 0.5 * np.sin(2.2 * warp + 1.2 * u + d)
    return mask


PATTERNS: dict[str, Callable[[Plane, Plane, np.random.Generator], Mask]] = {
    "bricks": _bricks,
    "dots": _dots,
    "checks": _checks,
    "stripes": _stripes,
    "zigzag": _zigzag,
    "rings": _rings,
    "grid": _grid,
    "speckles": _speckles,
    "scales": _scales,
    "marble": _marble,
}
"""How the mask of a texture follows from its coordinates in periods."""

_PATTERNS = tuple(PATTERNS.values())
