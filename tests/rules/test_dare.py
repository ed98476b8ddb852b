import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from knots.rules.dare import dare, kept, reference_masks, task_masks

SHAPE = (5, 6)


def test_task_masks_depend_on_seed_task_and_module_alone():
    masks = task_masks(["a", "b"], drop=0.5, seed=1)
    swapped = task_masks(["b", "c", "a"], drop=0.5, seed=1)
    first, second = masks("m", SHAPE)
    assert torch.equal(swapped("m", SHAPE)[2], first)
    assert torch.equal(swapped("m", SHAPE)[0], second)
    assert not torch.equal(first, second)
    assert not torch.equal(masks("n", SHAPE)[0], first)
    assert not torch.equal(task_masks(["a"], drop=0.5, seed=2)("m", SHAPE)[0], first)


def test_tasks_of_one_name_get_masks_of_their_own():
    first, second = task_masks(["a", "a"], drop=0.5, seed=1)("m", SHAPE)
    assert not torch.equal(first, second)


def test_reference_masks_replay_one_stream_with_layer_10_before_layer_2():
    shapes = {"layers.2.q": (2, 3), "layers.10.q": (4, 5)}
    masks = reference_masks(["a", "b"], shapes, drop=0.3, seed=424)
    with torch.random.fork_rng():
        torch.manual_seed(424)
        for task in range(2):
            for module in ("layers.10.q", "layers.2.q"):
                torch.randint(2, shapes[module])
                expected = torch.empty(shapes[module]).bernoulli_(0.7)
                assert torch.equal(masks(module, shapes[module])[task], expected)


@pytest.mark.parametrize("shape", [SHAPE, (3, 8), (0, 4), (1, 1)])
def test_kept_masks_are_drawn_once_and_stay_the_same(shape):
    drawn = []

    def draw(module, shape):
        drawn.append(module)
        return task_masks(["a", "b"], drop=0.4, seed=1)(module, shape)

    masks = kept(draw)
    first = {module: masks(module, shape) for module in "mn"}
    again = {module: masks(module, shape) for module in "nm"}
    for module in "mn":
        assert torch.equal(first[module], task_masks(["a", "b"], drop=0.4, seed=1)(module, shape))
        assert torch.equal(again[module], first[module])
        assert again[module].dtype == torch.float32
    assert drawn == ["m", "n"]


def test_drawing_masks_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    reference_masks(["a"], {"m": SHAPE}, drop=0.3, seed=1)("m", SHAPE)
    task_masks(["a"], drop=0.3, seed=1)("m", SHAPE)
    assert torch.equal(torch.random.get_rng_state(), before)


@settings(deadline=None)
@given(st.floats(0, 0.95), st.integers(0, 100))
def test_kept_entries_are_rescaled_and_the_rest_is_zero(drop, seed):
    coords = torch.ones(2, *SHAPE)
    dropped = dare(coords, task_masks(["a", "b"], drop=drop, seed=seed)("m", SHAPE), drop)
    assert bool(((dropped == 0) | torch.isclose(dropped, torch.tensor(1 / (1 - drop)))).all())
    assert torch.equal(coords, torch.ones(2, *SHAPE))


def test_the_expectation_is_unchanged():
    shape = (300, 300)
    dropped = dare(torch.ones(1, *shape), task_masks(["a"], drop=0.9, seed=0)("m", shape), 0.9)
    assert abs(float(dropped.mean()) - 1) < 0.05  # five standard errors of a Bernoulli(0.1) over 90,000 draws
