"""What every drawn task shares: the pen, the style and the camera.

A picture is drawn at twice its size in the colours that its subject usually has, then *photographed*: shrunk,
recoloured, lit unevenly, blurred and made noisy. How far the photograph may stray from the drawing is one
number, `Style.strength`: the benchmark's own pictures have strength 1, the pictures that the base model is
pretrained on have less (`knots.suites.miniature.web`). That difference is the gap that fine-tuning closes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

SIZE = 32
"""Height and width of a finished picture, in pixels."""

DRAWN = 2 * SIZE
"""Height and width while drawing; shrinking by two is the anti-aliasing."""

Pixels = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.floating[Any]]
"""Pixels or a mask while they are numbers in [0, 1], mostly float32."""

Colour = tuple[int, int, int]
Point = tuple[float, float]

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_GRID_Y, _GRID_X = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j].astype(np.float32)
_CIRCLE = [(math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 20, endpoint=False)]


@dataclass(frozen=True)
class Style:
    """How a picture strays from its subject's tidy drawing.

    Attributes:
        strength: 0 is tidy, centred and in its usual colours; 1 is the benchmark.
        fonts: names of the font files that text is set in, without their ending.
    """

    strength: float
    fonts: tuple[str, ...]


@dataclass(frozen=True)
class Pen:
    """Draws shapes in coordinates of [-1, 1] x [-1, 1], x to the right and y down, after a change of view.

    Attributes:
        image: the picture of `DRAWN` x `DRAWN` pixels that is drawn on.
        view: the matrix [2, 3], as a flat tuple, that maps coordinates to pixels.
    """

    image: Image.Image
    view: tuple[float, float, float, float, float, float] = (DRAWN / 2, 0, DRAWN / 2, 0, DRAWN / 2, DRAWN / 2)
    _draw: ImageDraw.ImageDraw = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_draw", ImageDraw.Draw(self.image))

    def turned(self, angle: float, scale: float, shift: Point) -> Pen:
        """Give a pen for the same picture whose shapes are turned (radians), scaled and then shifted."""
        c, s = math.cos(angle) * scale * DRAWN / 2, math.sin(angle) * scale * DRAWN / 2
        x, y = (1 + shift[0]) * DRAWN / 2, (1 + shift[1]) * DRAWN / 2
        return Pen(self.image, (c, -s, x, s, c, y))

    def _map(self, points: Sequence[Point]) -> list[Point]:
        a, b, c, d, e, f = self.view
        return [(a * x + b * y + c, d * x + e * y + f) for x, y in points]

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        """Fill the polygon through `points`."""
        self._draw.polygon(self._map(points), fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        """Fill a rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        """Fill an ellipse around (x, y)."""
        self.polygon([(x + rx * c, y + ry * s) for c, s in _CIRCLE], fill)

    def line(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        """Draw a line through `points`; `width` in the same units as the coordinates."""
        pixels = max(1, round(width * math.hypot(self.view[0], self.view[3])))
        self._draw.line(self._map(points), fill=fill, width=pixels, joint="curve")


def blank(colour: Colour) -> Image.Image:
    """A picture of one colour, to draw on."""
    return Image.new("RGB", (DRAWN, DRAWN), colour)


def jitter(colour: Colour, amount: float, rng: np.random.Generator) -> Colour:
    """A colour near `colour`: each channel moves by up to `amount` of 255."""
    r, g, b = (np.asarray(colour) + rng.uniform(-amount, amount, 3)).clip(0, 255).astype(int).tolist()
    return r, g, b


def two_tones(rng: np.random.Generator, apart: float) -> tuple[Colour, Colour]:
    """Two random colours whose luminances differ by at least `apart` of 255, in random order."""
    while True:
        pair = rng.integers(0, 256, (2, 3))
        if abs(float((pair[0] - pair[1]) @ _LUMA)) >= apart:
            (r, g, b), (s, h, c) = pair.tolist()
            return (r, g, b), (s, h, c)


def random_view(pen: Pen, style: Style, rng: np.random.Generator, *, tilt: float, zoom: float) -> Pen:
    """Tilt (at most `tilt` radians), zoom (by up to the fraction `zoom`) and shift, less at low strength."""
    angle, grow, x, y = rng.uniform(-1, 1, 4).tolist()
    reach = 0.25 + 0.75 * style.strength
    return pen.turned(
        tilt * reach * angle, 1 - zoom * reach * (0.5 - 0.5 * grow), (0.2 * reach * x, 0.2 * reach * y)
    )


def photograph(image: Image.Image, style: Style, rng: np.random.Generator) -> Pixels:
    """Take the picture: `DRAWN` x `DRAWN` drawing -> uint8 [SIZE, SIZE, 3]."""
    strength = style.strength
    if rng.random() < 0.3 * strength:
        image = image.filter(ImageFilter.BoxBlur(float(rng.uniform(0.5, 1.6))))
    pixels = np.asarray(image.reduce(DRAWN // SIZE), dtype=np.float32) / 255
    return develop(pixels, style, rng)


def develop(pixels: Plane, style: Style, rng: np.random.Generator) -> Pixels:
    """Recolour, light and spoil a picture of floats in [0, 1]: [SIZE, SIZE, 3] -> uint8 of the same shape."""
    strength = style.strength
    if rng.random() < strength:
        pixels = _recolour(pixels, rng)
    slope_x, slope_y, contrast, gain = rng.uniform(-1, 1, 4).tolist()
    light = 1 + strength * (0.25 * slope_x * _GRID_X + 0.25 * slope_y * _GRID_Y)
    pixels = 0.5 + (pixels - 0.5) * (1 - strength * (0.2 + 0.2 * contrast)) + 0.12 * strength * gain
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * (0.01 + strength * rng.uniform(0, 0.07))
    finished: Pixels = ((pixels * light[..., None] + noise).clip(0, 1) * 255 + 0.5).astype(np.uint8)
    return finished


def _recolour(pixels: Plane, rng: np.random.Generator) -> Plane:
    """Turn the hues, change the saturation (one in six is grey) and the cast; one in three is a negative."""
    luma = pixels @ _LUMA
    chroma = pixels - luma[..., None]
    saturation = 0.0 if rng.random() < 1 / 6 else float(rng.uniform(0.3, 1.4))
    turned = chroma @ (saturation * _hue_matrix(float(rng.uniform(0, 2 * math.pi))))
    if rng.random() < 1 / 3:
        luma = 1 - luma
    luma = luma.clip(0, 1) ** float(np.exp(rng.uniform(-0.6, 0.6)))
    cast = rng.uniform(-0.15, 0.15, 3).astype(np.float32)
    recoloured: Plane = luma[..., None] + turned + cast
    return recoloured


def _hue_matrix(angle: float) -> Plane:
    """The rotation by `angle` around the grey axis of the colour cube, [3, 3]."""
    cos, sin = math.cos(angle), math.sin(angle)
    third, root = (1 - cos) / 3, sin / math.sqrt(3)
    rows = [[cos + third, third - root, third + root], [third + root, cos + third, third - root]]
    return np.array([*rows, [third - root, third + root, cos + third]], dtype=np.float32)
