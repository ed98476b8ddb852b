"""What the base model saw before: tidier pictures of the same things, with noisy captions.

As with pictures from the web, the subjects are those of the benchmark, but in other fonts, closer to their
usual colours and with less noise, tilt and clutter; real scans are not among them. Some captions only name
the kind of thing, some are plainly wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt

from knots.suites.miniature import TASKS, Drawer
from knots.suites.miniature.canvas import SIZE, Pixels, Style
from knots.suites.miniature.glyphs import CAPITALS, WEB_FONTS, draw_capital, draw_street_number
from knots.suites.miniature.land_cover import draw_land_cover
from knots.suites.miniature.scenes import draw_scene
from knots.suites.miniature.signs import draw_sign
from knots.suites.miniature.textures import draw_texture
from knots.suites.miniature.vehicles import draw_vehicle

CHUNK = 1000
"""Pictures drawn from one seed; the unit of work of one process."""


@dataclass(frozen=True)
class Kind:
    """One kind of thing on the web.

    Attributes:
        share: relative frequency.
        classes: the names of its classes.
        draw: who draws one.
        coarse: captions that name no class.
        fine: captions with `{}` for the class name.
    """

    share: float
    classes: tuple[str, ...]
    draw: Drawer
    coarse: tuple[str, ...]
    fine: tuple[str, ...]


KINDS: Mapping[str, Kind] = {
    "street_numbers": Kind(
        2.0,
        TASKS["street_numbers"].classes,
        draw_street_number,
        coarse=("a number", "a photo of a number"),
        fine=("the number {}", "a photo of a {}", "a picture of the digit {}"),
    ),
    "letters": Kind(
        2.5,
        CAPITALS,
        draw_capital,
        coarse=("a letter", "a photo of a letter"),
        fine=("the letter {}", "a photo of a {}", "a picture of a capital {}"),
    ),
    "textures": Kind(
        1.0,
        TASKS["textures"].classes,
        draw_texture,
        coarse=("a pattern", "a photo of a texture"),
        fine=("a {} pattern", "a photo of {}", "a picture of a {} texture"),
    ),
    "signs": Kind(
        1.2,
        TASKS["signs"].classes,
        draw_sign,
        coarse=("a traffic sign", "a photo of a sign"),
        fine=("a {} sign", "a photo of a {} sign", "a {} traffic sign"),
    ),
    "land_cover": Kind(
        1.0,
        TASKS["land_cover"].classes,
        draw_land_cover,
        coarse=("an aerial photo", "a satellite photo"),
        fine=("{} from above", "an aerial photo of {}", "a satellite photo of {}"),
    ),
    "scenes": Kind(
        1.0,
        TASKS["scenes"].classes,
        draw_scene,
        coarse=("a place", "a photo of a place"),
        fine=("{}", "a photo of {}", "a picture of a place with {}"),
    ),
    "vehicles": Kind(
        1.0,
        TASKS["vehicles"].classes,
        draw_vehicle,
        coarse=("a vehicle", "a photo of a vehicle"),
        fine=("a {}", "a photo of a {}", "a picture of a {} a vehicle"),
    ),
}


@dataclass(frozen=True)
class Captions:
    """The things that captions can say: first every class of every kind, then every kind as such.

    Attributes:
        texts: for each of the C things, the ways to say it.
        kind: int64 [C], the index in `KINDS` of each thing.
        fine: bool [C], False for a kind as such.
    """

    texts: tuple[tuple[str, ...], ...]
    kind: npt.NDArray[np.int64]
    fine: npt.NDArray[np.bool_]


def captions() -> Captions:
    """List what captions can say."""
    kinds = list(KINDS.values())
    classes = [(i, name) for i, kind in enumerate(kinds) for name in kind.classes]
    texts = [tuple(form.format(name) for form in kinds[i].fine) for i, name in classes]
    texts += [kind.coarse for kind in kinds]
    index = np.array([i for i, _ in classes] + list(range(len(kinds))), dtype=np.int64)
    return Captions(tuple(texts), index, np.arange(len(texts)) < len(classes))


@dataclass(frozen=True)
class WebStyle:
    """How far the web is from the benchmark.

    Attributes:
        strength: kind -> the largest `Style.strength`; a picture's own is uniform between 0 and this.
        coarse: share of captions that name only the kind.
        wrong: share of captions that name another class of the kind.
    """

    strength: Mapping[str, float]
    coarse: float
    wrong: float


def draw_web(count: int, seed: int, style: WebStyle, workers: int) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Draw captioned pictures: images uint8 [count, 32, 32, 3] and what each caption says, int64 [count].

    The number of `workers` (processes) does not change the result.
    """
    chunks = range(-(-count // CHUNK))
    images = np.empty((len(chunks) * CHUNK, SIZE, SIZE, 3), dtype=np.uint8)
    said = np.empty(len(images), dtype=np.int64)
    with ProcessPoolExecutor(workers) as pool:
        for i, (pixels, ids) in enumerate(pool.map(_draw_chunk, chunks, repeat(seed), repeat(style))):
            images[i * CHUNK : (i + 1) * CHUNK], said[i * CHUNK : (i + 1) * CHUNK] = pixels, ids
    return images[:count], said[:count]


def _draw_chunk(chunk: int, seed: int, style: WebStyle) -> tuple[Pixels, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(np.random.SeedSequence([seed, 200, chunk]))
    shares = np.array([kind.share for kind in KINDS.values()])
    kinds = rng.choice(len(KINDS), CHUNK, p=shares / shares.sum())
    images = np.empty((CHUNK, SIZE, SIZE, 3), dtype=np.uint8)
    said = np.empty(CHUNK, dtype=np.int64)
    for i, kind in enumerate(kinds.tolist()):
        name, thing = list(KINDS.items())[kind]
        label = int(rng.integers(0, len(thing.classes)))
        look = Style(float(rng.uniform(0, style.strength[name])), WEB_FONTS)
        images[i] = thing.draw(label, look, rng)
        said[i] = _say(kind, label, style, rng)
    return images, said


def _say(kind: int, label: int, style: WebStyle, rng: np.random.Generator) -> int:
    """What the caption of one picture says, as an index into `captions()`."""
    sizes = [len(one.classes) for one in KINDS.values()]
    draw = rng.random()
    if draw < style.coarse:
        return sum(sizes) + kind
    if draw < style.coarse + style.wrong:
        label = int(rng.integers(0, sizes[kind]))
    return sum(sizes[:kind]) + label
