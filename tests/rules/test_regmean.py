from copy import deepcopy

import pytest
import torch

import knots
from knots import KnotsError
from knots.evaluation.calibration import collect_grams
from knots.models.attach import fold
from knots.models.clip import ClipSpec, load_clip
from knots.suites.data import ImageArrays
from tests.miniatures import MODULES, tiny_adapter_in_memory, tiny_arrays, tiny_clip
from tests.random_adapters import random_adapters, relative_distance, relative_error

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


def test_task_weights_count_as_more_data_of_a_task(adapters, grams):
    def merged(weights=None, grams=grams):
        return knots.merge(
            adapters, space="full", rule="regmean", scale=1.0, grams=grams, weights=weights, ridge=0.0
        )

    weights = [0.5, 3.0, 1.0]
    scaled = {
        name: {module: weight * gram for module, gram in modules.items()}
        for weight, (name, modules) in zip(weights, grams.items(), strict=True)
    }
    assert relative_error(merged(weights), merged(grams=scaled)) < 1e-5
    assert relative_error(merged([2.0] * 3), merged()) < 1e-5
    assert relative_error(merged(weights), merged()) > 1e-2


# From here on with Gram matrices of a model: three adapters of the tiny CLIP on images of their own.


@pytest.fixture(scope="module")
def plain_clip(tmp_path_factory):
    return load_clip(ClipSpec("tiny", str(tiny_clip(tmp_path_factory.mktemp("clip")))))


@pytest.fixture(scope="module")
def clip(plain_clip):
    """With layer norms as after training. Fresh ones make inputs that sum to zero, and singular Grams."""
    trained = deepcopy(plain_clip)
    generator = torch.Generator().manual_seed(0)
    for module in trained.tower.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.weight.add_(0.3 * torch.randn(module.weight.shape, generator=generator))
            module.bias.add_(0.3 * torch.randn(module.bias.shape, generator=generator))
    return trained


@pytest.fixture(scope="module")
def tuned():
    return [tiny_adapter_in_memory(f"task {seed}", seed, rank=2 + seed) for seed in range(3)]


@pytest.fixture(scope="module")
def data():
    return [ImageArrays(*tiny_arrays(20, 3, seed)) for seed in range(3)]


@pytest.fixture(scope="module")
def real_grams(clip, tuned, data):
    return collect_grams(clip, tuned, data, batch_size=8, device="cpu")


def inputs(clip, adapter, arrays):
    """Module -> X [tokens, I] in float64, through the task's own model."""
    model, rows = deepcopy(clip), {}
    fold(model.tower, adapter)
    for name in MODULES:
        model.tower.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: rows.__setitem__(name, args[0].flatten(0, 1).double())
        )
    with torch.no_grad():
        model(torch.from_numpy(arrays.images))
    return rows


def least_squares(clip, adapters, data, off_diagonal):
    """The dW that minimize the mean squared difference to every task's own outputs on its own inputs.

    An off-diagonal factor c is c times that error, plus (1 - c) times the error on inputs without
    correlations: one row a feature, as long as the feature's root mean square.
    """
    every = [inputs(clip, adapter, arrays) for adapter, arrays in zip(adapters, data, strict=True)]
    solution = {}
    for module in MODULES:
        rows, targets = [], []
        for adapter, x in zip(adapters, every, strict=True):
            x = x[module] / len(x[module]) ** 0.5
            alone = torch.diag(x.square().sum(dim=0).sqrt())
            x = torch.cat([off_diagonal**0.5 * x, (1 - off_diagonal) ** 0.5 * alone])
            rows.append(x)
            targets.append(x @ adapter.updates[module].dense(torch.float64).T)
        # Below rcond there is only the rounding of the model's own float32.
        found = torch.linalg.lstsq(torch.cat(rows), torch.cat(targets), rcond=1e-5, driver="gelsd")
        solution[module] = found.solution.T
    return solution


def matrices(adapter):
    return {module: update.dense() for module, update in adapter.updates.items()}


@pytest.mark.parametrize("off_diagonal", [1.0, 0.95])
@pytest.mark.parametrize("space", ["full", "knots"])
def test_on_a_models_inputs_it_is_the_least_squares_merge(space, off_diagonal, clip, tuned, data, real_grams):
    merged = knots.merge(
        tuned,
        space=space,
        rule="regmean",
        scale=1.0,
        grams=real_grams,
        off_diagonal=off_diagonal,
        ridge=0.0,
    )
    expected = least_squares(clip, tuned, data, off_diagonal)
    assert relative_distance(matrices(merged), expected) < 1e-4
    average = knots.merge(tuned, space="full", rule="sum", reduce="mean", scale=1.0)
    assert relative_distance(matrices(average), expected) > 0.1  # or the images would decide nothing


@pytest.mark.parametrize("off_diagonal", [1.0, 0.95, 0.0])
def test_merging_whole_weights_is_the_base_plus_the_merge_of_updates(off_diagonal, clip, tuned, real_grams):
    """W = (sum_i W_i G_i) (sum_i G_i)^-1 with W_i = W_0 + dW_i, as RegMean is published."""
    merged = knots.merge(
        tuned, space="full", rule="regmean", scale=1.0, grams=real_grams, off_diagonal=off_diagonal, ridge=0.0
    )
    got, expected = {}, {}
    for module in MODULES:
        base = clip.tower.get_submodule(module).weight.double()
        total, numerator = torch.zeros(16, 16).double(), torch.zeros(16, 16).double()
        for adapter in tuned:
            gram = real_grams[adapter.name][module].double().clone()
            for i in range(16):
                for j in range(16):
                    gram[i, j] *= 1.0 if i == j else off_diagonal
            numerator += (base + adapter.updates[module].dense(torch.float64)) @ gram
            total += gram
        expected[module] = numerator @ torch.linalg.inv(total) - base
        got[module] = merged.updates[module].dense().double()
    assert relative_distance(got, expected) < 1e-4


@pytest.mark.parametrize("off_diagonal", [1.0, 0.95])
def test_knots_space_changes_nothing_on_a_models_inputs(off_diagonal, tuned, real_grams):
    options = {"rule": "regmean", "scale": 0.7, "grams": real_grams, "off_diagonal": off_diagonal}
    full, aligned = (knots.merge(tuned, space=space, **options) for space in ("full", "knots"))
    assert relative_error(aligned, full) < 1e-5


def test_singular_grams_still_give_the_least_squares_outputs(plain_clip, tuned, data):
    """Fresh layer norms: no input has a component along the ones, and the ridge keeps the merge out of it."""
    grams = collect_grams(plain_clip, tuned, data, batch_size=8, device="cpu")
    total = sum(grams[a.name][MODULES[0]].double() for a in tuned)
    assert torch.linalg.eigvalsh(total)[0] < 1e-6 * total.trace()
    merged = knots.merge(tuned, space="full", rule="regmean", scale=1.0, grams=grams)
    expected = least_squares(plain_clip, tuned, data, off_diagonal=1.0)
    for adapter, arrays in zip(tuned, data, strict=True):
        for module, x in inputs(plain_clip, adapter, arrays).items():
            got, wanted = x @ merged.updates[module].dense(torch.float64).T, x @ expected[module].T
            assert float((got - wanted).norm() / wanted.norm()) < 1e-3


def test_spaces_that_change_the_in_features_are_refused_also_where_the_shapes_would_fit():
    adapters = random_adapters(0, ranks=(4, 4, 4), shapes={"a": (6, 6)})
    grams = {a.name: {"a": torch.eye(6)} for a in adapters}
    for space in ("knots_rows", "core"):
        with pytest.raises(KnotsError, match=f"'full' or 'knots', not in '{space}'"):
            knots.merge(adapters, space=space, rule="regmean", scale=1.0, grams=grams)
