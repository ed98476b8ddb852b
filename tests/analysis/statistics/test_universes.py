"""The hierarchical bootstrap against resampling items and universes one after the other."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knots.analysis.statistics import Panel, hierarchical, panel
from knots.analysis.statistics import universes as module
from knots.errors import KnotsError
from knots.evaluation.intervals import bootstrap, pair
from tests.analysis.statistics.panels import drawn_panel, predictions


@pytest.fixture
def drawn() -> Panel:
    return drawn_panel(np.random.default_rng(3), 5, spread=0.3)[0]


def literal(panel: Panel, chosen: dict[str, np.ndarray], pooled: bool = False) -> np.ndarray:
    """[U, M], averages over chosen items, one universe, predictor and task after the other."""
    values = np.zeros((panel.universes, len(panel.predictors)))
    for universe in range(panel.universes):
        for place in range(len(panel.predictors)):
            tasks = [task for t, task in enumerate(panel.tasks) if panel.scored[place, t]]
            right = {task: panel.right[task][universe, place][chosen[task]] for task in tasks}
            if pooled:
                values[universe, place] = np.concatenate(list(right.values())).mean()
                continue
            shares = {task: right[task].mean() for task in tasks}
            if panel.reference is not None:
                for task in tasks:
                    shares[task] /= panel.reference[task][universe][chosen[task]].mean()
            values[universe, place] = np.mean(list(shares.values()))
    return values


@given(st.integers(0, 2**31), st.integers(1, 4), st.booleans(), st.booleans())
@settings(max_examples=30, deadline=None)
def test_measured_values_are_the_averages(seed: int, universes: int, pooled: bool, partial: bool):
    found, _ = drawn_panel(np.random.default_rng(seed), universes, spread=0.5, items=30, tasks=3)
    if partial:
        found = replace(found, scored=np.array([[True, True, True], [True, False, True]]))
    every = {task: np.arange(30) for task in found.tasks}
    draws = hierarchical(found, draws=10, pooled=pooled)
    np.testing.assert_allclose(draws.values, literal(found, every, pooled), rtol=1e-6)


@pytest.mark.parametrize("few", [0, 10**9], ids=["by outcome", "by item"])
def test_drawn_items_are_those_of_a_literal_bootstrap(drawn: Panel, few: int, monkeypatch):
    monkeypatch.setattr(module, "FEW", few)
    _, ours = module._averages(drawn, np.random.default_rng(0), 3000, False, {})
    generator = np.random.default_rng(1)
    theirs = np.array(
        [
            literal(drawn, {task: generator.integers(n, size=n) for task, n in drawn.items.items()})
            for _ in range(1500)
        ]
    )
    flat, expected = ours.reshape(3000, -1), theirs.reshape(1500, -1)
    deviation = expected.std(axis=0)
    np.testing.assert_allclose(flat.mean(axis=0), expected.mean(axis=0), atol=0.15 * deviation.min())
    np.testing.assert_allclose(flat.std(axis=0), deviation, rtol=0.08)
    np.testing.assert_allclose(np.corrcoef(flat.T), np.corrcoef(expected.T), atol=0.11)


def test_one_universe_is_the_paired_bootstrap_of_runs():
    one, _ = drawn_panel(np.random.default_rng(0), 1, spread=0.0, items=400)
    pairs = [pair(one.right[task][0, 0], one.reference[task][0]) for task in one.tasks]
    expected = bootstrap(pairs, seed=1, draws=20_000).normalized_average
    assert hierarchical(one, draws=20_000).mean("a").interval == pytest.approx(expected, abs=0.002)


def test_the_same_seed_gives_the_same_draws_and_a_smaller_block_too(drawn: Panel, monkeypatch):
    first, again, other = (hierarchical(drawn, seed=seed, draws=200) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.draws, again.draws)
    assert not np.array_equal(first.draws, other.draws)
    monkeypatch.setattr(module, "BLOCK", 700)
    np.testing.assert_array_equal(first.draws, hierarchical(drawn, seed=0, draws=200).draws)


def test_draws_are_shared_by_all_columns(drawn: Panel):
    draws = hierarchical(drawn, draws=500)
    difference = draws.draws[:, 0] - draws.draws[:, 1]
    estimate = draws.difference("a", "b")
    assert estimate.value == pytest.approx(draws.mean("a").value - draws.mean("b").value)
    assert estimate.interval == pytest.approx(np.quantile(difference, [0.025, 0.975]))
    assert estimate.above == pytest.approx((difference > 0).mean())
    turned = draws.difference("b", "a")
    assert turned.error == pytest.approx(estimate.error)
    assert turned.above == pytest.approx(1 - estimate.above)
    half = draws.contrast({"a": 0.5, "b": -0.5})
    assert half.interval == pytest.approx([end / 2 for end in estimate.interval])
    assert draws.difference("a", "a").interval == (0.0, 0.0)


def test_equal_predictors_differ_by_nothing_and_without_error():
    right = np.random.default_rng(0).random((3, 1, 50)) < 0.7
    both = Panel(("t",), ("a", "b"), {"t": right.repeat(2, axis=1)}, None, np.ones((2, 1), bool))
    estimate = hierarchical(both).difference("a", "b")
    assert (estimate.value, estimate.above) == (0.0, 0.0)
    assert estimate.interval == pytest.approx((0, 0), abs=1e-12)
    assert estimate.error == pytest.approx(0, abs=1e-12)


def test_equal_universes_add_nothing_to_the_error_of_items():
    one, _ = drawn_panel(np.random.default_rng(0), 1, spread=0.0, items=300)
    five = replace(
        one,
        right={task: right.repeat(5, axis=0) for task, right in one.right.items()},
        reference={task: right.repeat(5, axis=0) for task, right in one.reference.items()},
    )
    assert hierarchical(five).mean("a").error == pytest.approx(hierarchical(one).mean("a").error, rel=0.05)
    assert hierarchical(five).mean("a").interval == pytest.approx(
        hierarchical(one).mean("a").interval, abs=0.005
    )


def test_the_error_of_few_universes_is_student_s():
    generator, count = np.random.default_rng(5), 3
    levels = np.array([0.2, 0.5, 0.8])
    right = generator.random((count, 1, 4000)) < levels[:, None, None]
    found = hierarchical(Panel(("t",), ("a",), {"t": right}, None, np.ones((1, 1), bool)), draws=20_000)
    estimate, spread = found.mean("a"), found.values.std(ddof=1) / np.sqrt(count)
    assert estimate.error == pytest.approx(spread, rel=0.01)
    # Student's quantile of two degrees is 4.30; three values that are resampled come near it.
    low, high = estimate.interval
    assert (high - low) / 2 / spread == pytest.approx(4.3, rel=0.1)


def test_a_ratio_to_nothing_is_no_number():
    none = Panel(
        ("t",), ("a",), {"t": np.ones((2, 1, 9), bool)}, {"t": np.zeros((2, 9), bool)}, np.ones((1, 1), bool)
    )
    estimate = hierarchical(none).mean("a")
    assert np.isnan(estimate.value)
    assert (estimate.interval, estimate.error, estimate.above) == (None, None, None)


def test_divisors_are_constants(drawn: Panel):
    plain = replace(drawn, reference=None)
    found = hierarchical(plain, draws=100, divisors={"task 0": 0.8, "task 1": 0.5})
    parts = [plain.right[task].mean(axis=-1) / by for task, by in (("task 0", 0.8), ("task 1", 0.5))]
    np.testing.assert_allclose(found.values, np.mean(parts, axis=0))


def test_a_predictor_without_any_task_is_no_number(drawn: Panel):
    partial = replace(drawn, scored=np.array([[True, True], [False, False]]))
    draws = hierarchical(partial, draws=50)
    assert np.isfinite(draws.mean("a").value)
    assert np.isnan(draws.mean("b").value)


def test_mistakes_are_said(drawn: Panel):
    draws = hierarchical(drawn, draws=10)
    with pytest.raises(KnotsError, match="unknown predictor 'c'"):
        draws.mean("c")
    with pytest.raises(KnotsError, match="at least one predictor"):
        draws.contrast({})
    empty = Panel(("t",), ("a",), {"t": np.ones((1, 1, 0), bool)}, None, np.ones((1, 1), bool))
    with pytest.raises(KnotsError, match="task 't', which has no items"):
        hierarchical(empty)


def test_eight_tasks_of_thousands_of_items_take_seconds():
    from time import perf_counter

    generator = np.random.default_rng(0)
    item = generator.normal(size=(8, 1, 1, 4000))
    right = item + 0.7 * generator.normal(size=(8, 5, 10, 4000)) > -0.5
    tasks = {f"task {place}": one for place, one in enumerate(right)}
    large = Panel(tuple(tasks), tuple("abcdefghij"), tasks, None, np.ones((10, 8), bool))
    start = perf_counter()
    hierarchical(large)
    assert perf_counter() - start < 30


def test_from_tables_to_estimates():
    generator = np.random.default_rng(0)
    better, worse = generator.random(500) < 0.9, generator.random(500) < 0.7
    found = panel([{"better": predictions(better), "worse": predictions(worse)}])
    estimate = hierarchical(found).difference("better", "worse")
    assert estimate.value == pytest.approx(better.mean() - worse.mean())
    assert estimate.above > 0.99
