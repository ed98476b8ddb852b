"""What a rule that looks at data is shown of each task, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from knots.errors import KnotsError, unknown
from knots.evaluation.calibration import Labels
from knots.pipelines.values import choice, whole
from knots.suites.tasks import SPLITS

LABELINGS: tuple[Labels, ...] = get_args(Labels)


@dataclass(frozen=True)
class Calibration:
    """What a rule that needs data is shown of each task.

    Attributes:
        examples: items of each task.
        split: that they are taken of.
        seed: of the draw, and of the labels that Fisher draws.
        labels: "sampled", "exact" or "data", for Fisher.
    """

    examples: int
    split: str
    seed: int
    labels: Labels | None = None


def parse_calibration(values: object) -> Calibration | None:
    """Read `merge.calibration`; None for rules that need none.

    Raises:
        KnotsError: it is no mapping, a key is unknown, or a value has the wrong type.
    """
    if values is None:
        return None
    known = ("examples", "split", "seed", "labels")
    if not isinstance(values, Mapping):
        raise KnotsError(f"merge.calibration={values!r}; a mapping with {', '.join(known)} is needed")
    for key in values:
        if key not in known:
            raise unknown("key of 'merge.calibration'", str(key), known)
    labels = values.get("labels")
    return Calibration(
        examples=whole("merge.calibration.examples", values.get("examples")),
        split=choice("merge.calibration.split", values.get("split"), SPLITS),
        seed=whole("merge.calibration.seed", values.get("seed"), least=0),
        labels=None if labels is None else _labeling(labels),
    )


def _labeling(value: object) -> Labels:
    for labeling in LABELINGS:
        if value == labeling:
            return labeling
    raise unknown("merge.calibration.labels", str(value), LABELINGS)
