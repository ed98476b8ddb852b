import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file

import knots
from knots import METHODS, Adapter, Dense, KnotsError, LowRank
from knots.randomness import named_generator
from knots.rules import RULES
from knots.spaces import SPACES
from knots.threads import torch_threads
from knots.updates import Deferred
from tests import reference
from tests.adapters.conftest import adapt, build, peft_deltas
from tests.random_adapters import random_adapters, relative_distance, relative_error

GOLDEN = Path(__file__).parent / "golden"
FAMILIES = ("vit", "llama")


def golden_adapters(folder):
    return [knots.load_adapter(path) for path in sorted((folder / "inputs").iterdir())]


def check_golden(folder):
    """Compare every setting below a folder with what the reference made of it; returns how many ran."""
    adapters = golden_adapters(folder)
    settings_ = json.loads((folder / "settings.json").read_text())
    for setting in settings_:
        options = {k: v for k, v in setting.items() if k not in ("name", "reference")}
        merged = knots.merge(adapters, **options)
        expected = load_file(folder / "expected" / f"{setting['name']}.safetensors")
        error = relative_distance({m: u.dense() for m, u in merged.updates.items()}, expected)
        assert error < 1e-5, f"{setting['name']}: relative error {error:.1e}"
    return len(settings_)


@pytest.mark.parametrize(("family", "count"), [("vit", 16), ("llama", 2)])
def test_merges_equal_the_references(family, count):
    assert check_golden(GOLDEN / family) == count


@pytest.mark.parametrize(("family", "count"), [("vit", 39), ("llama", 31)])
def test_merges_equal_the_references_in_every_setting(shared, family, count):
    assert check_golden(shared / "golden" / family) == count


def dense(adapters):
    return [{m: u.dense() for m, u in a.updates.items()} for a in adapters]


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("density", [0.2, 1.0])
def test_knots_ties_equals_the_published_algorithm(rows, density):
    adapters = random_adapters(3)
    merged = knots.merge(
        adapters, space="knots_rows" if rows else "knots", rule="ties", scale=0.6, density=density
    )
    expected = reference.knots_ties(dense(adapters), density, rows=rows)
    got = {m: u.dense() / 0.6 for m, u in merged.updates.items()}
    assert relative_distance(got, expected) < 1e-5


@pytest.mark.parametrize("space", SPACES)
def test_task_arithmetic_is_the_same_in_every_space(space):
    adapters = random_adapters(0)
    expected = {m: 0.3 * sum(a.updates[m].dense() for a in adapters) for m in adapters[0].updates}
    merged = knots.merge(adapters, space=space, rule="sum", scale=0.3)
    assert relative_distance({m: u.dense() for m, u in merged.updates.items()}, expected) < 1e-5


OPTIONS = {
    "ties": {"density": 0.4},
    "dare_ties": {"density": 0.7, "drop": 0.3, "seed": 5},
    "knots_ties": {"density": 0.4},
    "knots_dare_ties": {"drop": 0.3, "seed": 5},
    "knots_rows_ties": {"density": 0.4},
    "knots_ties_unscaled": {"density": 0.4},
    "ties_count": {"density": 0.4},
    "knots_ties_count": {"density": 0.4},
    "dare_ties_count": {"density": 0.4, "drop": 0.3, "seed": 5},
    "knots_dare_ties_count": {"density": 0.4, "drop": 0.3, "seed": 5},
    "dare_task_arithmetic": {"drop": 0.3, "seed": 5},
    "cart": {"pruning_rank": 0.3, "cart_scale": 0.5},
    "core_ties": {"density": 0.4},
    "core_cart": {"pruning_rank": 0.3, "cart_scale": 0.5},
}


def run_method(name, adapters, **changes):
    options = {"scale": 0.5, **OPTIONS.get(name, {}), **from_data(name, adapters), **changes}
    return knots.merge(adapters, **METHODS[name], **options)


def from_data(name, adapters):
    """Stand-ins for what two methods take from calibration images; other numbers for every task."""
    if name == "regmean":
        return {"grams": {a.name: {m: torch.diag(1 + s[0]) for m, s in squares(a).items()} for a in adapters}}
    if name == "fisher":
        return {"fishers": {a.name: squares(a) for a in adapters}}
    return {}


def squares(adapter):
    generator = named_generator(0, adapter.name)
    return {m: torch.randn(u.shape, generator=generator).square() for m, u in adapter.updates.items()}


def adapters_of(name, seed):
    """Adapters for a method's test.

    Updates that share no direction have V_i' whose singular values are all 1, so which of them TSV cuts is
    arbitrary; with ranks of at most K / T it cuts none.
    """
    return random_adapters(seed, ranks=(2,)) if name == "knots_tsv_unscaled" else random_adapters(seed)


def rotated(adapter, seed):
    """The same updates from other factors: B G, G^-1 A with an orthogonal G."""
    generator = torch.Generator().manual_seed(seed)
    updates = {}
    for module, u in adapter.updates.items():
        g = torch.linalg.qr(torch.randn(u.rank, u.rank, generator=generator)).Q
        updates[module] = LowRank(u.b @ g, g.T @ u.a)
    return replace(adapter, updates=updates)


@pytest.mark.parametrize("name", METHODS)
@settings(deadline=None, max_examples=5, derandomize=True)
@given(seed=st.integers(0, 1000))
def test_merges_do_not_depend_on_the_order_of_tasks_or_on_orthogonal_factor_changes(name, seed):
    adapters = adapters_of(name, seed)
    merged = run_method(name, adapters)
    assert relative_error(run_method(name, adapters[::-1]), merged) < 1e-5
    assert relative_error(run_method(name, [rotated(a, seed) for a in adapters]), merged) < 1e-5


@pytest.mark.parametrize("name", METHODS)
def test_the_same_call_gives_the_same_bits_and_changes_no_input(name):
    adapters = random_adapters(0)
    before = [{m: (u.b.clone(), u.a.clone()) for m, u in a.updates.items()} for a in adapters]
    first, second = run_method(name, adapters), run_method(name, adapters)
    for module, update in first.updates.items():
        assert update.shape == adapters[0].updates[module].shape
        assert torch.equal(update.dense(), second.updates[module].dense())
    for adapter, factors in zip(adapters, before, strict=True):
        for module, (b, a) in factors.items():
            assert torch.equal(adapter.updates[module].b, b)
            assert torch.equal(adapter.updates[module].a, a)


CANDIDATES = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["task_arithmetic", "ties", "knots_ties", "knots_rows_ties", "core_tsv"]),
        "scale": st.sampled_from([0.1, 0.5, 1.0]),
        "density": st.sampled_from([0.2, 1.0]),
        "drop": st.sampled_from([0.0, 0.5]),
        "seed": st.sampled_from([0, 1]),
        "dare_rng": st.sampled_from(["task", "reference"]),
    }
)


@settings(deadline=None, max_examples=25)
@given(st.lists(CANDIDATES, min_size=2, max_size=6))
def test_prepared_adapters_merge_again_and_again_as_fresh_ones_bit_for_bit(candidates):
    adapters = random_adapters(3)
    prepared = knots.Prepared(adapters)
    for candidate in candidates:
        options = dict(candidate)
        method = METHODS[options.pop("method")]
        if method.rule != "ties":
            del options["density"]
        elif options["drop"] > 0:
            options["dare_after"] = "trim" if options["seed"] else "alignment"
        again, fresh = (knots.merge(a, **method, **options) for a in (prepared, adapters))
        for module, update in fresh.updates.items():
            assert torch.equal(again.updates[module].dense(), update.dense())


def test_prepared_adapters_are_aligned_once_and_scaled_by_one_multiplication(monkeypatch):
    aligned, ties = [], []
    align, begin = SPACES["knots"], RULES["ties"].begin
    monkeypatch.setitem(SPACES, "knots", lambda *args: aligned.append(1) or align(*args))
    monkeypatch.setattr(RULES["ties"], "begin", lambda *args: ties.append(1) or begin(*args))
    prepared = knots.Prepared(random_adapters(3))
    for density in (0.2, 0.5):
        for scale in (0.1, 0.5, 1.0):
            knots.merge(prepared, space="knots", rule="ties", density=density, scale=scale)
    assert len(aligned) == len(prepared.adapters[0].updates)
    assert len(ties) == 2


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dare_rng", ["task", "reference"])
def test_the_number_of_threads_changes_no_bit(name, dare_rng, monkeypatch):
    monkeypatch.setattr("knots.merging.SMALL", 0)  # these adapters would be left to one thread
    adapters = random_adapters(0)
    options = {"dare_rng": dare_rng} if "drop" in METHODS[name].takes else {}
    merges = []
    for threads in (1, 3):
        with torch_threads(threads):
            merged = run_method(name, adapters, **options)
            merges.append([update.dense() for update in merged.updates.values()])
    assert all(map(torch.equal, *merges))


@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0]])
@pytest.mark.parametrize("space", SPACES)
def test_rows_at_a_time_change_nothing(space, weights, density, monkeypatch):
    options = {"space": space, "rule": "ties", "scale": 1.0, "density": density, "weights": weights}
    for drop in (0.0, 0.5):
        whole = knots.merge(random_adapters(0), **options, drop=drop)
        with monkeypatch.context() as patch:
            patch.setattr("knots.merging.PART", 1)
            patch.setattr("knots.merging.TASK_PART", 1)
            by_rows = knots.merge(random_adapters(0), **options, drop=drop)
            assert relative_error(by_rows, whole) < 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_scale_multiplies_the_merge(name):
    adapters = random_adapters(0)
    half, whole = run_method(name, adapters), run_method(name, adapters, scale=1.0)
    assert relative_error(Adapter("", {m: u.scaled(0.5) for m, u in whole.updates.items()}), half) < 1e-6


@pytest.mark.parametrize(("space", "rule", "low_rank"), [
    ("knots", "ties", True), ("knots_rows", "ties", True), ("core", "tsv", True),
    ("full", "sum", True), ("full", "tsv", True), ("full", "ties", False),
])  # fmt: skip
def test_merges_keep_factors_where_space_and_rule_allow_it(space, rule, low_rank):
    merged = knots.merge(random_adapters(0, ranks=(1,)), space=space, rule=rule, scale=1.0)
    for update in merged.updates.values():
        assert isinstance(update, LowRank) == low_rank
        assert not low_rank or update.rank == 3


@pytest.mark.parametrize(("space", "rule", "options"), [
    ("full", "ties", {"density": 0.3}), ("knots", "ties", {"density": 0.3}), ("full", "sum", {}),
    ("full", "tsv", {}), ("full", "cart", {"pruning_rank": 0.5, "cart_scale": 1.0}),
])  # fmt: skip
def test_dense_updates_merge_as_their_low_rank_twins(space, rule, options):
    adapters = random_adapters(0, ranks=(3,))
    full = [replace(a, updates={m: Dense(u.dense()) for m, u in a.updates.items()}) for a in adapters]
    mixed = [full[0], *adapters[1:]]
    if rule == "tsv":  # a dense update may have any rank, so more triples are kept
        adapters = [replace(a, updates={m: replace_rank(u) for m, u in a.updates.items()}) for a in adapters]
    merged = knots.merge(adapters, space=space, rule=rule, scale=1.0, **options)
    assert relative_error(knots.merge(full, space=space, rule=rule, scale=1.0, **options), merged) < 1e-4
    if rule != "tsv":
        assert relative_error(knots.merge(mixed, space=space, rule=rule, scale=1.0, **options), merged) < 1e-4


def replace_rank(update):
    """Pad the factors with zeros to the rank that a dense update of this shape may have."""
    extra = min(update.shape) - update.rank
    return LowRank(
        torch.cat([update.b, torch.zeros(update.shape[0], extra)], dim=1),
        torch.cat([update.a, torch.zeros(extra, update.shape[1])]),
    )


def test_a_task_of_weight_two_counts_as_two_tasks():
    first, second = random_adapters(0, tasks=2)
    twice = [first, replace(first, name="again"), second]
    weighted = knots.merge(
        [first, second], space="full", rule="sum", reduce="mean", scale=1.0, weights=[2, 1]
    )
    assert (
        relative_error(weighted, knots.merge(twice, space="full", rule="sum", reduce="mean", scale=1.0))
        < 1e-5
    )


def test_negative_weights_negate_a_task_where_nothing_is_divided():
    first, second = random_adapters(0, tasks=2)
    merged = knots.merge([first, second], space="knots", rule="sum", scale=1.0, weights=[1, -1])
    expected = {m: first.updates[m].dense() - second.updates[m].dense() for m in first.updates}
    assert relative_distance({m: u.dense() for m, u in merged.updates.items()}, expected) < 1e-5
    with pytest.raises(KnotsError, match="negative weights"):
        knots.merge([first, second], space="knots", rule="ties", scale=1.0, weights=[1, -1])


def test_a_module_that_some_adapters_lack_counts_as_zero_and_is_named():
    first, second = random_adapters(0, tasks=2)
    partial = replace(second, updates={m: u for m, u in second.updates.items() if m != "layers.0.v_proj"})
    with pytest.warns(UserWarning, match=r"'task_1' has no update for 1 modules .*layers.0.v_proj"):
        merged = knots.merge([first, partial], space="knots", rule="sum", scale=1.0)
    torch.testing.assert_close(
        merged.updates["layers.0.v_proj"].dense(),
        first.updates["layers.0.v_proj"].dense(),
        rtol=1e-4,
        atol=1e-5,
    )


def test_heads_travel_with_the_merge_under_their_tasks_names():
    adapters = random_adapters(0, tasks=2)
    heads = [
        {"score.weight": torch.ones(3, 4)},
        {"score.weight": torch.zeros(3, 4), "score.bias": torch.ones(3)},
    ]
    merged = knots.merge(
        [replace(a, heads=h, base="b") for a, h in zip(adapters, heads, strict=True)],
        space="full", rule="sum", scale=1.0,
    )  # fmt: skip
    assert set(merged.heads) == {"task_0.weight", "task_1.weight", "task_1.bias"}
    assert merged.base == "b"


def test_classifiers_merge_into_a_folder_that_peft_loads(tmp_path):
    """Llamas as PEFT saves them for `SEQ_CLS`: each with a head, trained in full, in the adapter's file."""
    tasks = ("snli", "mnli", "sick")
    models = [adapt("llama", seed, r=2, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
                    task_type="SEQ_CLS") for seed in range(len(tasks))]  # fmt: skip
    for task, model in zip(tasks, models, strict=True):
        model.save_pretrained(tmp_path / task)
        config = json.loads((tmp_path / task / "adapter_config.json").read_text())
        assert config["modules_to_save"] == ["classifier", "score"]
    merged = knots.merge(
        [knots.load_adapter(tmp_path / t) for t in tasks], **METHODS["knots_ties"], scale=0.5
    )
    assert knots.save_adapter(merged, tmp_path / "merged") == 0
    heads = load_file(tmp_path / "merged" / "heads.safetensors")
    assert list(heads) == sorted(f"{task}.weight" for task in tasks)
    for task, model in zip(tasks, models, strict=True):
        assert torch.equal(heads[f"{task}.weight"], model.model.score.modules_to_save["default"].weight)
    found = peft_deltas(PeftModel.from_pretrained(build("llama"), tmp_path / "merged"))
    assert relative_distance(found, {m: u.dense() for m, u in merged.updates.items()}) < 1e-5


DEFERRED = {
    "ties": {"density": 0.4},
    "dare_ties": {"density": 0.7, "drop": 0.3, "seed": 5},
    "dare_task_arithmetic": {"drop": 0.3, "seed": 5, "dare_rng": "reference"},
}


@pytest.mark.parametrize("name", DEFERRED)
@pytest.mark.parametrize("trim", ["model", "module"])
def test_large_dense_merges_of_low_rank_adapters_are_computed_when_they_are_read(
    name, trim, tmp_path, monkeypatch
):
    adapters = random_adapters(0)
    options = {**METHODS[name], **DEFERRED[name], "scale": 0.5, "trim": trim, "weights": [1, 2, 1]}
    held = knots.merge(adapters, **options)
    monkeypatch.setattr("knots.merging.HELD", 0)
    merged = knots.merge(adapters, **options)
    full = [replace(a, updates={m: Dense(u.dense()) for m, u in a.updates.items()}) for a in adapters]
    at_once = knots.merge(full, **options)
    for module, update in merged.updates.items():
        assert isinstance(update, Deferred)
        assert not isinstance(at_once.updates[module], Deferred)
        assert not isinstance(held.updates[module], Deferred)
        assert torch.equal(update.dense(), held.updates[module].dense())
        assert torch.equal(update.dense(), at_once.updates[module].dense())
        assert torch.equal(update.dense(), update.dense())
    knots.save_adapter(merged, tmp_path / "whole")
    assert relative_error(knots.load_adapter(tmp_path / "whole"), at_once) == 0
    cost = knots.save_adapter(merged, tmp_path / "short", max_rank=2)
    assert cost == pytest.approx(relative_error(knots.load_adapter(tmp_path / "short"), at_once), rel=1e-4)
    again = knots.merge([merged, *adapters], space="full", rule="sum", scale=1.0)
    assert again.updates["layers.0.q_proj"].shape == (12, 10)


def nothing(_):
    return None


BAD_CALLS = [
    ({"density": 0.0}, r"density=0.0; allowed: .*0 < density <= 1"),
    ({"density": 20}, "density=20; allowed"),
    ({"drop": 1.0}, r"drop=1.0; allowed: .*0 <= drop < 1"),
    ({"scale": float("nan")}, "scale=nan"),
    ({"dare_rng": "torch"}, "dare_rng='torch'; allowed: 'task', 'reference'"),
    ({"trim": "layer"}, "trim='layer'"),
    ({"reduce": "max"}, "reduce='max'"),
    ({"cutoff": -1.0}, "cutoff=-1.0"),
    ({"space": "knot"}, "unknown space 'knot'; did you mean 'knots'"),
    ({"rule": "tie"}, "unknown rule 'tie'; did you mean 'ties'"),
    (
        {"rule": "sum", "density": 0.5},
        r"rule 'sum' does not take the option density=0.5 \(its options: reduce\)",
    ),
    ({"rule": "tsv", "reduce": "sum"}, "rule 'tsv' does not take the option reduce='sum'"),
    ({"rule": "cart"}, "rule 'cart' needs pruning_rank, cart_scale"),
    ({"topk": 20}, "does not take the option topk=20"),
    ({"weights": [1.0]}, "1 weights for 3 adapters"),
    ({"weights": [0, 0, 0]}, "not all zero"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_CALLS)
def test_bad_options_are_named_with_what_is_allowed(changes, message):
    with pytest.raises(KnotsError, match=message):
        knots.merge(random_adapters(0), **{"space": "knots", "rule": "ties", "scale": 1.0} | changes)


def edited(adapter, module, update):
    return replace(adapter, updates={**adapter.updates, module: update})


def test_adapters_that_cannot_be_merged_are_refused():
    merge = {"space": "knots", "rule": "ties", "scale": 1.0}
    first, second = random_adapters(0, tasks=2)
    module = "layers.0.q_proj"
    with pytest.raises(KnotsError, match="no adapters"):
        knots.merge([], **merge)
    other_shape = edited(second, module, LowRank(torch.ones(12, 1), torch.ones(1, 11)))
    with pytest.raises(KnotsError, match=r"'layers.0.q_proj'.*\(12, 10\).*\(12, 11\)"):
        knots.merge([first, other_shape], **merge)
    nan = edited(second, module, LowRank(torch.full((12, 1), float("nan")), torch.ones(1, 10)))
    with pytest.raises(KnotsError, match=r"'task_1', module 'layers\.0\.q_proj'"):
        knots.merge([first, nan], **merge)
    zero = replace(second, updates={m: u.scaled(0) for m, u in second.updates.items()})
    with pytest.raises(KnotsError, match="'task_1' is a zero update"):
        knots.merge([first, zero], **merge)
    foreign = replace(second, updates={f"other.{m}": u for m, u in second.updates.items()})
    with pytest.raises(KnotsError, match="share no module"):
        knots.merge([first, foreign], **merge)
    with pytest.raises(KnotsError, match="differ in fan_in_fan_out"):
        knots.merge([first, replace(second, fan_in_fan_out=True)], **merge)
    with pytest.raises(KnotsError, match="has no updates"):
        knots.merge([first, replace(second, updates={})], **merge)


def test_the_methods_table_names_existing_spaces_and_rules():
    for name, method in METHODS.items():
        assert dict(method) == {"space": method.space, "rule": method.rule, **method.options}, name
        assert method.space in SPACES
        assert method.rule in RULES
        assert method.paper.startswith("arXiv:")
    with pytest.raises(KeyError):
        METHODS["ties"]["scale"]


def test_merging_one_adapter_with_everything_kept_returns_it():
    (adapter,) = random_adapters(0, tasks=1)
    with warnings.catch_warnings(action="error"):
        merged = knots.merge([adapter], **METHODS["knots_ties"], scale=1.0)
    assert relative_error(merged, adapter) < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("name", METHODS)
def test_the_gpu_gives_the_merge_of_the_cpu(name):
    adapters = adapters_of(name, 0)
    on_gpu = run_method(name, adapters, device="cuda")
    moved = Adapter("", {m: u.to("cpu") for m, u in on_gpu.updates.items()})
    assert relative_error(moved, run_method(name, adapters)) < 1e-5
