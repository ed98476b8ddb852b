"""How the items of a split go through a model, for what looks at its inputs and gradients.

Shapes: B items, D size of the features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from knots.evaluation.batches import Batch, Cut, ImageCut, TextBatch, TextCut
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
