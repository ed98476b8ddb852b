"""An analysis of the tiny CLIP's adapters, from a plan to its folder."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from knots.adapters import load_adapter
from knots.analysis.signs import sign_conflicts
from knots.checks import updates_by_module
from knots.errors import KnotsError
from knots.pipelines.analyze import AnalysisPlan, analysis_identity, parse_analysis, run_analysis
from knots.pipelines.analyze.plan import AnalysisOptions
from knots.pipelines.model_plan import ModelPlan
from knots.pipelines.workshop import Workshop
from knots.reporting.sheets import Sheet
from knots.suites import data
from tests.miniatures import MODULES, NOISE, tiny_suite
from tests.test_conf import composed

OPTIONS = AnalysisOptions(
    split="test",
    items=10,
    seed=0,
    tokens="all",
    estimator="debiased",
    cutoff=1e-5,
    spaces=("full", "knots"),
    density=0.2,
    precision="32",
)
Plans = Callable[..., AnalysisPlan]


@pytest.fixture
def analysis(model: ModelPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plans:
    """Makes plans: fields of `AnalysisPlan`, or options."""
    monkeypatch.setattr(data, "SOURCES", {"noise": NOISE})

    def make(**changes: object) -> AnalysisPlan:
        known = {
            key: changes.pop(key) for key in list(changes) if key in AnalysisOptions.__dataclass_fields__
        }
        plan = AnalysisPlan(
            model=model,
            full=None,
            suite=tiny_suite(),
            options=replace(OPTIONS, **known),
            batch_size=4,
            trainer={"accelerator": "cpu", "devices": 1},
            root=tmp_path / "outputs" / "analyze",
            cache_dir=tmp_path / "cache",
        )
        return replace(plan, **changes)

    return make


@pytest.fixture(scope="session")
def full(model: ModelPlan, tmp_path_factory: pytest.TempPathFactory) -> ModelPlan:
    """Full fine-tunes: the base with noise of a task's own on every linear module."""
    folder = tmp_path_factory.mktemp("full")
    base = load_file(Path(model.base) / "model.safetensors")
    for seed, task in enumerate(tiny_suite().task_names):
        generator = torch.Generator().manual_seed(seed)
        changed = {
            key: tensor + (0.01 * torch.randn(tensor.shape, generator=generator) if "_proj.w" in key else 0)
            for key, tensor in base.items()
            if key.startswith("vision_model.")
        }
        (folder / task).mkdir()
        save_file(changed, folder / task / "model.safetensors")
    return replace(model, adapters=str(folder / "{task}"), updates="full")


def test_an_analysis_leaves_a_whole_folder(analysis: Plans, full: ModelPlan):
    run = run_analysis(analysis(full=full))
    assert run.fresh
    assert {path.name for path in run.folder.iterdir()} == {
        *("cka.csv", "config.yaml", "figures", "geometry.csv", "log.txt", "metrics.json"),
        *("provenance.json", "tables"),
    }
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert metrics == run.metrics
    assert (metrics["schema"], metrics["record"], metrics["model"]) == (1, "analysis", "tiny")
    assert list(metrics["panels"]) == ["full", "lora", "knots"]
    assert (metrics["options"]["items_in_all"], metrics["options"]["rows"]) == (30, 30 * 17)
    for figure in metrics["figures"]:
        path = run.folder / figure["file"]
        assert path.is_file()
        assert path.with_suffix(".pdf").is_file()
    words = [
        "debiased",
        "10 test images of each of 3 tasks",
        "every token",
        "seed 0",
        "510 rows",
        "8 modules",
    ]
    assert all(word in metrics["figures"][0]["caption"] for word in words)
    sheets = [Sheet.from_json(sheet) for sheet in metrics["sheets"]]
    assert [sheet.name for sheet in sheets] == ["cka", "updates_full", "updates_lora", "angles", "signs"]
    assert {path.name for path in (run.folder / "tables").glob("*.md")} == {f"{s.name}.md" for s in sheets}
    assert any("8 modules that the adapters touch" in note for note in metrics["notes"])


def test_the_record_s_means_are_those_of_its_tables(analysis: Plans):
    run = run_analysis(analysis(estimator="biased"))
    table = pd.read_csv(run.folder / "cka.csv")
    assert set(table["module"]) == set(MODULES)
    for name, panel in run.metrics["panels"].items():
        rows = table[table["panel"] == name]
        assert panel["mean_off_diagonal"] == pytest.approx(rows["biased"].mean())
        assert panel["debiased"]["mean_off_diagonal"] == pytest.approx(rows["debiased"].mean())
        matrix, (first, second) = panel["cka"], ("numbers", "patterns")
        pair = rows[(rows["task"] == second) & (rows["other"] == first)]
        assert matrix[0][1] == matrix[1][0] == pytest.approx(pair["biased"].mean())
        assert [matrix[place][place] for place in range(3)] == [1, 1, 1]
    geometry = pd.read_csv(run.folder / "geometry.csv")
    ranks = geometry[(geometry["measure"] == "rank") & (geometry["module"] == "(model)")]
    assert ranks["value"].tolist() == run.metrics["geometry"]["lora"]["ranks"] == [2, 3, 4]
    norms = geometry[geometry["measure"] == "norm"].groupby("task")["value"]
    whole = norms.apply(lambda values: values.iloc[0] ** 2 - values.iloc[1:].pow(2).sum())
    assert whole.abs().max() < 1e-5
    assert "left out" in run.metrics["notes"][0]
    assert "left out" in run.metrics["figures"][0]["caption"]


def test_full_fine_tunes_may_be_the_model_s_own_updates(analysis: Plans, full: ModelPlan):
    found = run_analysis(analysis(model=full)).metrics
    beside = run_analysis(analysis(full=full)).metrics
    assert list(found["panels"]) == ["full", "knots"]
    assert list(found["geometry"]) == ["full"]
    for module in MODULES:
        ours, theirs = (torch.tensor(run["panels"]["full"]["per_module"][module]) for run in (found, beside))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_signs_are_those_of_the_adapters(analysis: Plans):
    plan = analysis()
    run = run_analysis(plan)
    adapters = [load_adapter(plan.model.adapter_of(task), name=task) for task in plan.suite.task_names]
    updates = updates_by_module(adapters, "cpu")
    assert list(run.metrics["signs"]) == ["full", "knots"]
    for space, found in run.metrics["signs"].items():
        expected = sign_conflicts(updates, space=space, cutoff=1e-5, density=0.2)
        assert found["entries"] == expected.entries
        assert found["all"]["conflict"] == expected.every.conflict
        assert found["trimmed"]["cancelled"] == expected.trimmed.cancelled


def test_a_finished_analysis_is_read_and_force_runs_it_again(
    analysis: Plans, caplog: pytest.LogCaptureFixture
):
    first = run_analysis(analysis())
    with caplog.at_level(logging.INFO, "knots"):
        again = run_analysis(analysis(batch_size=7))
    assert (again.fresh, again.folder, again.metrics) == (False, first.folder, first.metrics)
    assert "finished already" in caplog.text
    forced = run_analysis(analysis(force=True))
    assert (forced.fresh, forced.metrics) == (True, first.metrics)


CHANGES = [
    *({"items": 9}, {"seed": 1}, {"tokens": "mean"}, {"estimator": "biased"}, {"cutoff": 1e-4}),
    *({"spaces": ("full",)}, {"density": 0.3}, {"suite": tiny_suite().subset(["numbers", "digits"])}),
]


def identity(plan: AnalysisPlan) -> dict:
    shop = Workshop(plan.model, plan.suite, precision="32", data=plan.data, cache_dir=plan.cache_dir)
    return analysis_identity(plan, shop, [])


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_what_determines_the_result_determines_the_run(analysis: Plans, change: dict):
    assert identity(analysis(**change)) != identity(analysis())


def test_batches_and_devices_do_not(analysis: Plans, tmp_path: Path):
    other = analysis(batch_size=3, trainer={}, cache_dir=tmp_path, config={"a": 1})
    assert identity(other) == identity(analysis())


def test_the_class_token_of_the_first_layer_is_told(analysis: Plans):
    run = run_analysis(analysis(tokens="class"))
    assert "lora: in 3 of 8 modules some tasks have no CKA" in " ".join(run.metrics["notes"])
    assert run.metrics["panels"]["lora"]["per_module"][MODULES[0]] == [[None] * 3] * 3
    assert 0 < run.metrics["panels"]["lora"]["mean_off_diagonal"] <= 1


def test_all_items_are_looked_at_where_there_are_fewer(analysis: Plans):
    run = run_analysis(analysis(items=1000))
    assert run.metrics["options"]["items_in_all"] == 68
    assert "up to 1000 test images" in run.metrics["figures"][0]["caption"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": {"accelerator": "abacus"}}, r"trainer="),
        ({"trainer": {"accelerator": "cpu", "devices": 2}}, r"one device, the trainer has 2"),
        ({"split": "train"}, r"train"),
        ({"items": 1, "tokens": "mean"}, r"at least 4 rows, got 3"),
    ],
)
def test_mistakes_leave_nothing(analysis: Plans, changes: dict, message: str):
    plan = analysis(**changes)
    with pytest.raises(KnotsError, match=message):
        run_analysis(plan)
    assert not list(plan.root.glob("*"))


def test_full_fine_tunes_that_lack_a_module_are_named(analysis: Plans, model: ModelPlan, full: ModelPlan):
    broken = replace(full, adapters=str(Path(model.base).parent / "adapters" / "{task}"))
    with pytest.raises(KnotsError, match="full fine-tune 'numbers'"):
        run_analysis(analysis(full=broken))


def config(*overrides: str) -> dict:
    return composed(*overrides, entry="analyze")


def test_the_configuration_is_a_plan():
    plan = parse_analysis(config())
    assert (plan.model.name, plan.suite.name, len(plan.suite.tasks)) == ("mini_clip", "mini_vision8", 8)
    assert (plan.full, plan.options.items, plan.options.tokens) == (None, 128, "all")
    assert plan.options.spaces == ("full", "knots", "knots_rows")
    assert plan.root == Path("outputs/analyze")
    language = parse_analysis(config("model=mini_llama", "tokens=last"))
    assert (language.suite.name, language.options.tokens, language.batch_size) == ("mini_nli6", "last", 4096)
    assert parse_analysis(config("model=llama3_8b")).options.precision == "bf16"


def test_full_fine_tunes_are_another_model_or_a_pattern():
    plan = parse_analysis(config("model=vit_b_32", "full=vit_b_32_full"))
    assert plan.full is not None
    assert plan.full.adapter_of("stanford_cars") == "tanganke/clip-vit-base-patch32_stanford-cars"
    assert plan.model.adapter_of("stanford_cars") == "hoffman-lab/KnOTS-ViT-B-32_lora_R16_stanford_cars"
    own = parse_analysis(config('full.adapters="mine/{task}"')).full
    assert own is not None
    assert (own.adapter_of("signs"), own.updates, own.base) == ("mine/signs", "full", "asset:mini_clip/base")
    assert parse_analysis(config("model=vit_b_32_full")).model.updates == "full"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tokens=last"], r"tokens='last' is not for vision; choose one of all, class, mean"),
        (["model=mini_llama", "tokens=class"], r"tokens='class' is not for language"),
        (["tokens=al"], r"unknown tokens 'al'; did you mean 'all'"),
        (["estimator=unbiased"], r"unknown estimator 'unbiased'; did you mean 'biased' or 'debiased'"),
        (["items=0"], r"items=0; a whole number of 1 or more"),
        (["density=0"], r"density=0.0; allowed: a fraction"),
        (["cutoff=-1"], r"cutoff=-1.0; allowed: 0 or more"),
        (["spaces=[knot]"], r"unknown spaces 'knot'; did you mean 'knots'"),
        (["precision=64"], r"unknown precision '64'"),
        (["tasks=[signs]"], r"an analysis compares tasks"),
        (["suite=nli6"], r"'nli6' is of language"),
        (["full=vit_b_32_full"], r"made from the base 'openai/clip-vit-base-patch32'.*asset:mini_clip/base"),
        (["full.adapters=mine"], r"adapters='mine' has no \{task\}"),
        (["model=vit_b_32", "full=vit_b_32_full", "precision=bf16"], r"precision=bf16: full fine-tunes"),
        (["model=vit_b_32_full", "full=vit_b_32_full"], r"are full fine-tunes already"),
        (["model=vit_b_32", "full=vit_b_32_full", "full.updates=lora"], r"full.updates='lora'"),
        (["model=mini_llama", 'full.adapters="a/{task}"'], r"is for models of family 'clip'"),
    ],
)
def test_a_mistake_in_the_configuration_is_named(overrides: list[str], message: str):
    with pytest.raises(KnotsError, match=message):
        parse_analysis(config(*overrides))
