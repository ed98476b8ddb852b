"""From features to predictions and ranks: plain functions of tensors.

An item with a score that is not finite (a merge at too large a scale overflows) has no prediction:
it counts as wrong everywhere, for comparisons with NaN would rank its label first.

Shapes: M models, B items, C classes, D features, G groups of classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

NO_PREDICTION = -1

UNRANKED = 2**31 - 1
"""The rank of a label whose scores are not finite: beyond every k, also where classes are few."""


def class_scores(features: Tensor, heads: Tensor) -> Tensor:
    """Cosine scores, the largest over the models.

    Args:
        features: [M, B, D], rows of unit length.
        heads: [C, D], rows of unit length (or all of one length).

    Returns:
        [B, C].
    """
    return (features @ heads.T).amax(dim=0)


def top1(scores: Tensor) -> Tensor:
    """The best class of each row of scores [B, C]; int64 [B], `NO_PREDICTION` where a score is not finite."""
    best = scores.argmax(dim=1)
    return torch.where(_usable(scores), best, NO_PREDICTION)


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Rank of the true class: 1 + the number of classes scored strictly higher.

    Args:
        scores: [B, C].
        labels: int64 [B].

    Returns:
        int64 [B] from 1 to C, or `UNRANKED` where a score is not finite.
    """
    return torch.where(_usable(scores), _ranks(scores, labels), UNRANKED)


def group_ranks(scores: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
    """Rank of the true class where classes of one group count as one, scored as its best member.

    Args:
        scores: [B, C].
        labels: int64 [B].
        groups: int64 [C], group numbers from 0 to G - 1.

    Returns:
        int64 [B] from 1 to G, or `UNRANKED` where a score is not finite.
    """
    # As many groups as classes: the unused ones rank last, and counting the used ones would need the device.
    best = torch.full_like(scores, float("-inf"))
    best = best.scatter_reduce(1, groups.expand(scores.shape), scores, reduce="amax")
    return torch.where(_usable(scores), _ranks(best, groups[labels]), UNRANKED)


def _ranks(scores: Tensor, labels: Tensor) -> Tensor:
    own = scores.gather(1, labels[:, None])
    return 1 + (scores > own).sum(dim=1)


def _usable(scores: Tensor) -> Tensor:
    return scores.isfinite().all(dim=1)
