import pytest
import torch

import knots
from knots import KnotsError
from tests.random_adapters import random_adapters, relative_error

SHAPES = {"a": (6, 5), "b": (4, 7)}


def gram(in_features, generator):
    x = torch.randn(50, in_features, generator=generator) * torch.linspace(0.5, 2, in_features)
    return x.T @ x / 50


@pytest.fixture
def grams(generator):
    return {f"task_{t}": {m: gram(s[1], generator) for m, s in SHAPES.items()} for t in range(3)}


@pytest.fixture
def adapters():
    return random_adapters(0, shapes=SHAPES)


@pytest.mark.parametrize("off_diagonal", [1.0, 0.9, 0.0])
def test_regmean_is_the_least_squares_solution(adapters, grams, off_diagonal):
    merged = knots.merge(
        adapters, space="full", rule="regmean", scale=1.0, grams=grams, off_diagonal=off_diagonal, ridge=0.0
    )
    for module in SHAPES:
        g = [grams[a.name][module].double() for a in adapters]
        g = [off_diagonal * x + (1 - off_diagonal) * torch.diag(x.diag()) for x in g]
        total = sum(a.updates[module].dense(torch.float64) @ x for a, x in zip(adapters, g, strict=True))
        expected = total @ torch.linalg.inv(sum(g))
        torch.testing.assert_close(merged.updates[module].dense().double(), expected, rtol=1e-4, atol=1e-5)


def test_equal_grams_give_the_average(adapters, grams):
    same = dict.fromkeys(grams, grams["task_0"])
    merged = knots.merge(adapters, space="full", rule="regmean", scale=1.0, grams=same, ridge=0.0)
    average = knots.merge(adapters, space="full", rule="sum", reduce="mean", scale=1.0)
    assert relative_error(merged, average) < 1e-5


def test_knots_space_changes_nothing(adapters, grams):
    full, aligned = (
        knots.merge(adapters, space=space, rule="regmean", scale=0.5, grams=grams)
        for space in ("full", "knots")
    )
    assert relative_error(aligned, full) < 1e-5


def test_missing_and_misfitting_grams_are_named(adapters, grams):
    with pytest.raises(KnotsError, match="regmean needs grams"):
        knots.merge(adapters, space="full", rule="regmean", scale=1.0)
    with pytest.raises(KnotsError, match=r"module 'a' of task 'task_2'"):
        knots.merge(adapters, space="full", rule="regmean", scale=1.0, grams=grams | {"task_2": {}})
    with pytest.raises(KnotsError, match="works in space 'full' or 'knots'"):
        knots.merge(adapters, space="knots_rows", rule="regmean", scale=1.0, grams=grams)


@pytest.mark.parametrize("options", [{"off_diagonal": 1.1}, {"ridge": -1.0}])
def test_options_out_of_range_are_refused(adapters, grams, options):
    with pytest.raises(KnotsError, match="allowed"):
        knots.merge(adapters, space="full", rule="regmean", scale=1.0, grams=grams, **options)
