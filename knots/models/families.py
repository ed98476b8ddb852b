"""The model families. To add one: a module beside `clip.py`, and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from knots.models.bases import Base
from knots.models.classifier import Classifier, ClassifierSpec, classifier_reading, load_classifier
from knots.models.clip import Clip, ClipSpec, clip_reading, load_clip
from knots.suites.data import DataOptions, Reading
from knots.suites.texts import TextReading

Model = Clip | Classifier
Spec = ClipSpec | ClassifierSpec


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Attributes:
        modality: of the suites that it takes, "vision" or "language".
        spec: what the model is called, where its base is, and the family's own options.
        options: the keys of a model's configuration that only this family has; fields of `spec`.
        load: reads the base on the CPU in a precision; it is located first where it is not given.
        reading: how items become what the base takes.
    """

    modality: str
    spec: type[ClipSpec] | type[ClassifierSpec]
    options: tuple[str, ...]
    load: Callable[[Any, Base | None, torch.dtype], Model]
    reading: Callable[[Base, DataOptions], Reading | TextReading]


FAMILIES: Mapping[str, Family] = {
    "clip": Family("vision", ClipSpec, ("text",), load_clip, clip_reading),
    "classifier": Family(
        "language",
        ClassifierSpec,
        ("heads", "pretrained"),
        load_classifier,
        lambda base, _: classifier_reading(base),
    ),
}


def family_of(spec: Spec) -> Family:
    """The family that a specification belongs to."""
    return next(family for family in FAMILIES.values() if isinstance(spec, family.spec))
