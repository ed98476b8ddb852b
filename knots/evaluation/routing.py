"""Which task's adapter an image goes through where nobody says what task it is of.

A task's prototype is the mean direction of the features that the unmerged base gives its validation images.
An image is routed to the task whose prototype is nearest. What the base sees decides, so nothing of this is
merged, and no image goes through more than one adapter.

Shapes: T tasks, N images of one task, B images of a batch, D size of the feature space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from knots.errors import KnotsError
from knots.evaluation.batches import Batch, ImageCut, ShardedBatches, copied
from knots.evaluation.precision import exact_float32
from knots.models.clip import Clip
from knots.suites.data import ImageArrays

PROTOTYPES = "validation"
"""The split whose images the prototypes are made of."""

Routes = npt.NDArray[np.int64]


def prototypes(clip: Clip, splits: Sequence[ImageArrays], names: Sequence[str], batch_size: int) -> Tensor:
    """The mean directions of the images of T splits.

    Args:
        clip: the base, without any adapter, where it stands.
        splits: a task's images each.
        names: of the tasks.
        batch_size: images that go through the base at once.

    Returns:
        [T, D] in float64, rows of unit length.

    Raises:
        KnotsError: a split is empty.
    """
    rows = []
    for name, arrays in zip(names, splits, strict=True):
        if len(arrays) == 0:
            raise KnotsError(f"merge=router: task {name!r} has no {PROTOTYPES} images to be recognized by")
        batches = ShardedBatches(ImageCut(arrays, 0, batch_size))
        rows.append(torch.stack([_directions(clip, batch).sum(dim=0) for batch in batches]).sum(dim=0))
    return F.normalize(torch.stack(rows), dim=-1)


def nearest(clip: Clip, arrays: ImageArrays, rows: Tensor, batch_size: int) -> Routes:
    """For each of N images the nearest of T prototypes [T, D], by cosine; of equals the first."""
    if len(arrays) == 0:
        return np.empty(0, np.int64)
    batches = ShardedBatches(ImageCut(arrays, 0, batch_size))
    found = [(_directions(clip, batch) @ rows.T).argmax(dim=1).cpu() for batch in batches]
    return torch.cat(found).numpy()


@torch.no_grad()
def _directions(clip: Clip, batch: Batch) -> Tensor:
    """Features [B, D] of unit length in float64."""
    with exact_float32(clip.device):
        features: Tensor = clip(clip.normalize(batch.images.to(clip.device)))
    return F.normalize(features.double(), dim=-1)


@dataclass(frozen=True, eq=False)
class RoutedCut:
    """Pictures of one task, those of one route after those of the other; a batch is of one route.

    Attributes:
        arrays: the items of the whole split.
        task: the position of the task in the suite.
        routes: [N], the task whose adapter each item goes through.
        batch_size: the most items of a batch.
        pinned: read into page-locked memory.
    """

    arrays: ImageArrays
    task: int
    routes: Routes
    batch_size: int
    pinned: bool = False

    @property
    def items(self) -> int:
        """Number of pictures."""
        return len(self.arrays)

    @cached_property
    def parts(self) -> list[tuple[int, npt.NDArray[np.int64]]]:
        """The route and the items of every batch."""
        found = []
        for route in np.unique(self.routes).tolist():
            items = np.flatnonzero(self.routes == route)
            starts = range(0, len(items), self.batch_size)
            found += [(route, items[start : start + self.batch_size]) for start in starts]
        return found

    def __len__(self) -> int:
        return len(self.parts)

    def read(self, number: int) -> Batch:
        """Copy one batch out of the map."""
        nothing = (self.task, np.empty(0, np.int64))
        route, items = self.parts[number] if number < len(self) else nothing
        return Batch(
            self.task,
            copied(items, torch.int64, self.pinned),
            copied(self.arrays.images[items], torch.uint8, self.pinned),
            copied(self.arrays.labels[items], torch.int64, self.pinned),
            route,
        )
