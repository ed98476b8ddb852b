import pytest

from knots.errors import KnotsError
from knots.search import Trial, value_of

OPTIONS = {"scale": 0.1, "density": 0.2, "drop": 0.0}
TRIAL = Trial(OPTIONS, 0, {"a": 10, "b": 40}, {"a": 5, "b": 30}, {"hits@1": 20, "hits@3": 30})


def test_accuracies_are_averaged_over_tasks_and_hits_pooled_over_items():
    assert value_of(TRIAL, "accuracy") == pytest.approx((50 + 75) / 2)
    assert value_of(TRIAL, "normalized", {"a": 80.0, "b": 90.0}) == pytest.approx(
        100 * (50 / 80 + 75 / 90) / 2
    )
    assert value_of(TRIAL, "hits@1") == pytest.approx(100 * 20 / 50)
    assert value_of(TRIAL, "hits@3") == pytest.approx(100 * 30 / 50)


def test_a_task_without_items_does_not_count():
    trial = Trial(OPTIONS, 0, {"a": 10, "b": 0}, {"a": 5, "b": 0}, None)
    assert value_of(trial, "accuracy") == 50.0


def test_an_unknown_metric_is_named_with_those_there_are():
    with pytest.raises(KnotsError, match=r"hits@2.*normalized"):
        value_of(TRIAL, "hits@2")


def test_a_reference_of_zero_is_named():
    with pytest.raises(KnotsError, match=r"is 0 for b; .*search\.metric=accuracy"):
        value_of(TRIAL, "normalized", {"a": 80.0, "b": 0.0})
