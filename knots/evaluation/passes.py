"""How the items of a split go through a model, for what looks at its inputs and gradients.

Shapes: B items, D size of the features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from knots.errors import KnotsError
from knots.evaluation.batches import Batch, Cut, ImageCut, ShardedBatches, TextBatch, TextCut
from knots.evaluation.precision import exact_float32
from knots.evaluation.tracing import watching
from knots.models.classifier import Classifier
from knots.models.clip import Clip
from knots.models.families import Model
from knots.suites.data import ImageArrays
from knots.suites.texts import TextArrays

Arrays = ImageArrays | TextArrays


def cut_for(model: Model, arrays: Arrays, batch_size: int) -> Cut[Batch] | Cut[TextBatch]:
    """A split in batches without padding: every token that goes through the model is an item's own.

    Args:
        model: the base.
        arrays: the items.
        batch_size: pictures of a batch; of sentences, tokens.
    """
    if isinstance(arrays, ImageArrays):
        return ImageCut(arrays, 0, batch_size)
    assert isinstance(model, Classifier)
    return TextCut(arrays, 0, batch_size, model.pad, equal=True)


def all_batches(
    model: Model, arrays: Arrays, batch_size: int
) -> ShardedBatches[Batch] | ShardedBatches[TextBatch]:
    """All items of a split, in one process; see `cut_for`."""
    cut: Any = cut_for(model, arrays, batch_size)
    return ShardedBatches(cut)


@contextmanager
def computing_on(model: Model, device: torch.device) -> Iterator[None]:
    """The model on a device, in exact arithmetic and outside inference mode; then back where it was."""
    home = model.device
    try:
        model.to(device)
        with torch.inference_mode(False), torch.enable_grad(), exact_float32(device):
            yield
    finally:
        model.to(home)


def input_leaders(model: Model, modules: Iterable[str], arrays: Arrays) -> dict[str, str]:
    """For every module the first one that is given the very same inputs, seen on one batch of `arrays`.

    Raises:
        KnotsError: a module takes no part in encoding an item.
    """
    inputs: dict[str, list[Tensor]] = {name: [] for name in modules}
    with watching(model.tower, inputs, lambda name, x, _: inputs[name].append(x)):
        features_of(model, cut_for(model, arrays, 1).read(0))
    first: dict[tuple[int, ...], str] = {}
    leaders = {}
    for name, tensors in inputs.items():
        if not tensors:
            raise KnotsError(f"module {name!r} has an update, but takes no part in encoding an item")
        # All inputs are still held, so no two of them can have one id.
        leaders[name] = first.setdefault(tuple(map(id, tensors)), name)
    return leaders


def features_of(model: Model, batch: Batch | TextBatch, *, gradients: bool = False) -> Tensor:
    """What heads read of a batch, [B, D].

    Args:
        model: the base.
        batch: of any device.
        gradients: the items ask for gradients, so that the weights need not.
    """
    if isinstance(batch, Batch):
        assert isinstance(model, Clip)
        pixels = model.normalize(batch.images.to(model.device))
        images: Tensor = model(pixels.requires_grad_(gradients))
        return images
    assert isinstance(model, Classifier)
    with _asking_for_gradients(model) if gradients else torch.no_grad():
        texts: Tensor = model(batch.tokens.to(model.device), batch.lengths.to(model.device))
    return texts


@contextmanager
def _asking_for_gradients(model: Classifier) -> Iterator[None]:
    handle = model.model.get_input_embeddings().register_forward_hook(
        lambda _, __, embedded: embedded.requires_grad_()
    )
    try:
        yield
    finally:
        handle.remove()
