"""`street_numbers` and `letters`: characters set in the fonts that matplotlib ships."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from knots.suites.miniature.canvas import (
    DRAWN,
    Pixels,
    Style,
    blank,
    jitter,
    photograph,
    two_tones,
)

DIGITS = tuple("0123456789")
CAPITALS = tuple("ABCDEFGHJKLMNPQRSTUVWXYZ")
"""What the web shows: capitals without I and O, which many fonts draw as 1 and 0."""

LETTERS = tuple("ABCDEFHJKMPQSTUVWXYZ")
"""What the benchmark asks for: without G, L, N and R, too, which 32 pixels hardly tell from C, J, M and B."""

FONTS = (
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol",
    "STIXGeneralItalic", "STIXGeneralBolIta", "cmr10", "cmb10", "cmss10", "cmti10", "cmtt10",
)  # fmt: skip
"""The benchmark's fonts, by file name: mostly with serifs."""

WEB_FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique",
)  # fmt: skip
"""The fonts of the pretraining pictures: mostly without serifs, none of the benchmark's."""


def draw_street_number(label: int, style: Style, rng: np.random.Generator) -> Pixels:
    """One digit in the middle; at strength 1 its neighbours on the house number are cut off at the sides."""
    left, right = (DIGITS[i] for i in rng.integers(0, 10, 2).tolist())
    neighbours = rng.random(2) < 0.6 * style.strength
    return _draw(DIGITS[label], left if neighbours[0] else "", right if neighbours[1] else "", style, rng)


def draw_letter(label: int, style: Style, rng: np.random.Generator) -> Pixels:
    """One of `LETTERS`, as `draw_capital` draws it."""
    return draw_capital(CAPITALS.index(LETTERS[label]), style, rng)


def draw_capital(label: int, style: Style, rng: np.random.Generator) -> Pixels:
    """One of `CAPITALS`, alone; at strength 1 sometimes with a piece of another one."""
    other = CAPITALS[int(rng.integers(0, len(CAPITALS)))]
    return _draw(CAPITALS[label], "", other if rng.random() < 0.25 * style.strength else "", style, rng)


def _draw(text: str, left: str, right: str, style: Style, rng: np.random.Generator) -> Pixels:
    """Set one character between two others, tilted and shifted, on a plain or split background."""
    strength = style.strength
    ink, paper = two_tones(rng, 130 - 25 * strength)
    font = style.fonts[int(rng.integers(0, len(style.fonts)))]
    size = 2 * int(rng.uniform(23 - 3 * strength, 27))
    shift = rng.uniform(-1, 1, 2) * (2 + 4 * strength)
    mask = Image.new("L", (DRAWN, DRAWN), 0)
    advance = _paste(mask, text, font, size, DRAWN / 2 + shift[0], DRAWN / 2 + shift[1])
    for sign, neighbour in ((-1, left), (1, right)):
        if neighbour:
            gap = sign * (0.8 * advance + 0.25 * size * rng.uniform(0.9, 1.4))
            _paste(mask, neighbour, font, size, DRAWN / 2 + shift[0] + gap, DRAWN / 2 + shift[1])
    angle = float(rng.uniform(-1, 1)) * (4 + 10 * strength)
    mask = mask.rotate(angle, Image.Resampling.BILINEAR)
    image = blank(paper)
    if rng.random() < 0.5 * strength:
        edge = int(rng.uniform(0.2, 0.8) * DRAWN)
        ImageDraw.Draw(image).rectangle((0, edge, DRAWN, DRAWN), fill=jitter(paper, 40, rng))
    image.paste(ink, (0, 0), mask)
    return photograph(image, style, rng)


def _paste(mask: Image.Image, text: str, font: str, size: int, x: float, y: float) -> float:
    """Stamp a character whose ink is centred on (x, y) into the mask; give half its width in pixels."""
    stamp = _stamp(text, font, size)
    box = (round(x - stamp.width / 2), round(y - stamp.height / 2))
    mask.paste(255, box, stamp)
    return stamp.width / 2


@cache
def _stamp(text: str, font: str, size: int) -> Image.Image:
    """The ink of one character, cropped to it."""
    face = ImageFont.truetype(str(_font_folder() / f"{font}.ttf"), size, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = face.getbbox(text)
    stamp = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2), 0)
    ImageDraw.Draw(stamp).text((1 - left, 1 - top), text, fill=255, font=face)
    return stamp


@cache
def _font_folder() -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"
