"""Predictions and ranks against slow, independent code."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from knots.evaluation.scores import UNRANKED, class_scores, group_ranks, label_ranks, top1


@st.composite
def scored(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Scores [B, C] with many ties, labels [B], groups [C]."""
    items, classes = draw(st.integers(0, 4)), draw(st.integers(1, 6))
    value = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0])
    scores = draw(
        st.lists(st.lists(value, min_size=classes, max_size=classes), min_size=items, max_size=items)
    )
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=items, max_size=items))
    groups = draw(st.lists(st.integers(0, classes - 1), min_size=classes, max_size=classes))
    dense = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return (
        torch.tensor(scores).reshape(items, classes),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor([dense[group] for group in groups]),
    )


@given(scored())
def test_rank_is_one_more_than_the_number_scored_strictly_higher(case: tuple[Tensor, Tensor, Tensor]):
    scores, labels, _ = case
    expected = [
        1 + sum(s > row[label] for s in row)
        for row, label in zip(scores.tolist(), labels.tolist(), strict=True)
    ]
    assert label_ranks(scores, labels).tolist() == expected


@given(scored())
def test_group_rank_counts_groups_by_their_best_member(case: tuple[Tensor, Tensor, Tensor]):
    scores, labels, groups = case
    expected = []
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        members = list(zip(row, groups.tolist(), strict=True))
        best = {group: max(score for score, of in members if of == group) for _, group in members}
        expected.append(1 + sum(score > best[int(groups[label])] for score in best.values()))
    assert group_ranks(scores, labels, groups).tolist() == expected
    assert (group_ranks(scores, labels, groups) <= label_ranks(scores, labels)).all()


@given(scored())
def test_single_groups_change_nothing(case: tuple[Tensor, Tensor, Tensor]):
    scores, labels, _ = case
    assert torch.equal(
        group_ranks(scores, labels, torch.arange(scores.shape[1])), label_ranks(scores, labels)
    )


@given(scored())
def test_the_prediction_has_the_highest_score(case: tuple[Tensor, Tensor, Tensor]):
    scores, labels, _ = case
    best = top1(scores)
    assert torch.equal(label_ranks(scores, best), torch.ones_like(labels))
    if (label_ranks(scores, labels) > 1).any():
        assert (best != labels)[label_ranks(scores, labels) > 1].all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_wrong(bad: float):
    scores = torch.tensor([[bad, bad, bad], [0.1, bad, 0.3], [0.1, 0.2, 0.3]])
    labels = torch.tensor([0, 2, 2])
    assert top1(scores).tolist() == [-1, -1, 2]
    assert label_ranks(scores, labels).tolist() == [UNRANKED, UNRANKED, 1]
    assert group_ranks(scores, labels, torch.tensor([0, 0, 1])).tolist() == [UNRANKED, UNRANKED, 1]


def test_the_ensemble_scores_the_maximum_over_models():
    features = torch.eye(3)[:2, None, :]  # two models, one item
    heads = torch.tensor([[0.1, 0.7, 0.0], [0.5, 0.2, 0.9]])
    torch.testing.assert_close(class_scores(features, heads), torch.tensor([[0.7, 0.5]]))
