"""The model families. To add one: a module beside `clip.py`, and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from knots.models.bases import Base
from knots.models.clip import Clip, ClipSpec, load_clip


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Attributes:
        modality: of the suites that it takes, "vision" or "language".
        spec: what the model is called and where its base is.
        load: reads the base in float32 on the CPU; it is located first where it is not given.
    """

    modality: str
    spec: type[ClipSpec]
    load: Callable[[ClipSpec, Base | None], Clip]


FAMILIES: Mapping[str, Family] = {
    "clip": Family("vision", ClipSpec, load_clip),
}
