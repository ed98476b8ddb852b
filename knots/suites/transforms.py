"""From a picture of any size and mode to the bytes that a model's transform would hand to its normalization.

Pictures are cached as these bytes and normalized on the device, so they are transformed once. Both transforms
end in bytes before they normalize, so nothing is lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from knots.errors import unknown

KINDS = ("clip", "open_clip")

Pixels = npt.NDArray[np.uint8]
"""One picture, uint8 [H, W, 3], RGB."""


@dataclass(frozen=True)
class Transform:
    """Resize and crop as a model does.

    Attributes:
        kind: "clip", transformers' `CLIPImageProcessorPil` after conversion to RGB (the reference's); or
            "open_clip", open_clip's `image_transform`, which resizes before it converts and crops one pixel
            off on odd margins.
        size: side of the square pictures it gives, in pixels.
        settings: JSON of the processor's own settings; "{}" for open_clip.
    """

    kind: str
    size: int
    settings: str = "{}"

    @property
    def identity(self) -> dict[str, Any]:
        """What determines its pictures, as plain values."""
        return {"kind": self.kind, "size": self.size, "settings": json.loads(self.settings)}

    def __call__(self, picture: Image.Image) -> Pixels:
        """Transform one picture of any size and mode."""
        return self._clip(picture) if self.kind == "clip" else self._open_clip(picture)

    def _clip(self, picture: Image.Image) -> Pixels:
        batch = self._processor(to_rgb(picture), do_rescale=False, do_normalize=False, return_tensors="np")
        return np.ascontiguousarray(batch["pixel_values"][0].transpose(1, 2, 0))

    def _open_clip(self, picture: Image.Image) -> Pixels:
        for step in self._steps:
            picture = step(picture)
        return np.asarray(to_rgb(picture))

    @cached_property
    def _processor(self) -> Any:
        from transformers import CLIPImageProcessorPil

        return CLIPImageProcessorPil(**json.loads(self.settings))

    @cached_property
    def _steps(self) -> list[Any]:
        """open_clip's steps up to the one that makes a tensor."""
        from open_clip import image_transform
        from torchvision.transforms import ToTensor

        steps: list[Any] = image_transform(self.size, is_train=False).transforms
        return steps[: next(place for place, step in enumerate(steps) if isinstance(step, ToTensor))]


def make_transform(kind: str, size: int, processor: Mapping[str, Any]) -> Transform:
    """The transform of a model.

    Args:
        kind: one of `KINDS`.
        size: side of the pictures that the model takes.
        processor: settings of its `CLIPImageProcessorPil`.

    Raises:
        KnotsError: an unknown kind.
    """
    if kind not in KINDS:
        raise unknown("data.transform", kind, KINDS)
    return Transform(kind, size, json.dumps(dict(processor), sort_keys=True) if kind == "clip" else "{}")


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode to RGB as `Image.convert` does, without its warnings, and 16-bit greys by their upper byte."""
    if picture.mode == "RGB":
        return picture
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
    elif picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert("RGB")
