"""What runs read follows from their plans."""

from collections.abc import Callable
from dataclasses import replace
from typing import get_type_hints

import pytest

from knots.errors import KnotsError
from knots.pipelines import MergePlan
from knots.pipelines.calibration_plan import Calibration
from knots.pipelines.needs import Items, experiment_needs, merge_need, method_need, parse_splits
from knots.pipelines.reproduce import KINDS
from knots.pipelines.search.plan import SearchPlan
from knots.suites.data import Sample

Plans = Callable[..., MergePlan]


def test_every_kind_of_experiment_says_what_it_needs():
    for parse, _ in KINDS.values():
        plan = get_type_hints(parse)["return"]
        assert plan in experiment_needs.registry
    with pytest.raises(TypeError, match="int needs: add it to experiment_needs"):
        experiment_needs(3)


@pytest.mark.parametrize(
    ("changes", "items"),
    [
        ({}, [Items("test")]),
        ({"split": "validation"}, [Items("validation")]),
        ({"kind": "single", "adapter": "best"}, [Items("test"), Items("validation")]),
        ({"kind": "single", "adapter": "digits"}, [Items("test")]),
        ({"kind": "router"}, [Items("test"), Items("validation")]),
        ({"kind": "router", "split": "validation"}, [Items("validation")]),
        ({"calibration": Calibration(9, "train", 4)}, [Items("test"), Items("train", Sample(9, 4))]),
    ],
)
def test_a_run_reads_what_it_scores_and_what_it_looks_at_beforehand(
    plan: Plans, changes: dict, items: list[Items]
):
    need = merge_need(plan(**changes))
    assert list(need.items) == items
    assert need.adapters
    assert need.scored
    assert not need.multitask


def test_a_search_reads_the_split_of_its_tests_too(search: Callable[..., SearchPlan]):
    assert method_need(search()).items == (Items("validation"), Items("test"))
    assert method_need(search(test_split=None)).items == (Items("validation"),)


def test_further_splits_are_added_once(plan: Plans):
    need = merge_need(plan(kind="multitask")).also(["train", "test"], heads=False)
    assert need.items == (Items("test"), Items("train"))
    assert not need.heads
    assert need.multitask
    assert not replace(need, heads=False).also([], heads=True).heads


def test_splits_are_named():
    assert parse_splits(None) is None
    assert parse_splits("test") == ("test",)
    assert parse_splits(["train", "test"]) == ("train", "test")
    with pytest.raises(KnotsError, match="unknown splits 'trian'; did you mean 'train'"):
        parse_splits(["trian"])
