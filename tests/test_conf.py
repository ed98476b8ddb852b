"""Every configuration composes to what it promises; the published numbers are the official ones."""

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException

from experiments._cli import CONF, mistake_of, plain
from knots.errors import KnotsError
from knots.finetuning import parse_plan
from knots.merging import METHODS
from knots.pipelines import parse_merge
from knots.pipelines.plans import KINDS

# gstoica27/KnOTS@baa35e8, configs/: scale, density, drop, seed, reduce (only for task arithmetic).
OFFICIAL = {
    ("vit_b_32", "task_arithmetic"): {"scale": 0.1, "reduce": "sum"},
    ("vit_b_32", "ties"): {"scale": 0.3, "density": 0.3},
    ("vit_b_32", "dare_ties"): {"scale": 0.6, "density": 1.0, "drop": 0.2, "seed": 424},
    ("vit_b_32", "knots_ties"): {"scale": 0.6, "density": 0.2},
    ("vit_b_32", "knots_dare_ties"): {"scale": 0.7, "density": 1.0, "drop": 0.1, "seed": 421},
    ("vit_l_14", "task_arithmetic"): {"scale": 0.3, "reduce": "mean"},
    ("vit_l_14", "ties"): {"scale": 0.3, "density": 0.2},
    ("vit_l_14", "dare_ties"): {"scale": 0.6, "density": 1.0, "drop": 0.2},
    ("vit_l_14", "knots_ties"): {"scale": 0.5, "density": 0.2},
    ("vit_l_14", "knots_dare_ties"): {"scale": 0.5, "density": 1.0, "drop": 0.1},
    ("llama3_8b", "task_arithmetic"): {"scale": 0.5, "reduce": "sum"},
    ("llama3_8b", "ties"): {"scale": 0.5, "density": 1.0},
    ("llama3_8b", "dare_ties"): {"scale": 0.4, "density": 1.0, "drop": 0.8},
    ("llama3_8b", "knots_ties"): {"scale": 0.5, "density": 1.0},
    ("llama3_8b", "knots_dare_ties"): {"scale": 0.4, "density": 1.0, "drop": 0.8},
}
MERGES = sorted(path.stem for path in (CONF / "merge").glob("[!_]*.yaml"))


def composed(*overrides: str, conf: Path = CONF, entry: str = "merge") -> dict:
    with initialize_config_dir(str(conf), version_base="1.3"):
        return plain(compose(entry, overrides=["logger=none", *overrides]))


def test_all_fifteen_published_settings_are_the_official_ones():
    found = {}
    for path in (CONF / "published").glob("*/*.yaml"):
        options = yaml.safe_load(path.read_text())
        assert "KnOTS@baa35e8" in options.pop("source")
        options.pop("also", None)
        # The published seeds belong to the official masks, and to no others.
        assert options.pop("dare_rng", None) == ("reference" if "seed" in options else None)
        found[path.parent.name, path.stem] = options
    assert len(OFFICIAL) == 15
    assert found == OFFICIAL


def test_published_numbers_win_over_neutral_ones_and_the_command_line_over_both():
    assert composed("merge=knots_ties")["merge"]["scale"] == 0.3
    published = composed("model=vit_b_32", "merge=knots_ties")
    assert published["merge"]["scale"] == 0.6
    assert "KnOTS" in published["merge"]["source"]
    assert composed("model=vit_b_32", "merge=ties", "merge.scale=0.9")["merge"]["scale"] == 0.9
    # A pair without published numbers.
    assert composed("model=vit_b_32", "merge=core_ties")["merge"]["source"] is None


def test_both_published_settings_of_the_language_benchmark_are_there():
    merge = composed("model=llama3_8b", "merge=knots_ties")["merge"]
    assert (merge["scale"], merge["density"]) == (0.5, 1.0)
    (other,) = merge["also"]
    assert (other["scale"], other["density"]) == (1.0, 0.4)


def test_precision_is_the_models_own_unless_it_is_chosen():
    chosen = {model: parse_merge(composed(f"model={model}")).scoring for model in ("vit_b_32", "llama3_8b")}
    assert [scoring.precision for scoring in chosen.values()] == ["32", "bf16"]
    assert [scoring.batch_size for scoring in chosen.values()] == [256, None]
    assert chosen["llama3_8b"].mode == "per_task"
    assert parse_merge(composed("model=llama3_8b", "precision=32")).scoring.precision == "32"


def test_a_merge_in_full_may_be_named_in_a_sweep_over_ranks():
    ranks = {
        value: parse_merge(composed(f"max_rank={value}")).max_rank for value in ("full", "null", "16", "8")
    }
    assert ranks == {"full": None, "null": None, "16": 16, "8": 8}


def test_the_published_seed_counts_unless_the_user_names_one():
    assert parse_merge(composed("model=vit_b_32", "merge=dare_ties")).seed == 424
    assert parse_merge(composed("model=vit_b_32", "merge=dare_ties", "seed=0")).seed == 0
    assert parse_merge(composed("merge=dare_ties")).seed == 0


@pytest.mark.parametrize(
    ("model", "suite", "first"),
    [
        ("mini_clip", "mini_vision8", "digits"),
        ("vit_b_32", "vision8", "stanford_cars"),
        ("vit_l_14", "vision8", "stanford_cars"),
        ("vit_b_32_full", "vision8", "stanford_cars"),  # a variant of a model inherits the suite
        ("mini_llama", "mini_nli6", "scenes"),
        ("llama3_8b", "nli6", "snli"),
        ("llama3_2_1b", "nli6", "snli"),
    ],
)
def test_suite_auto_is_the_suite_that_the_model_names(model: str, suite: str, first: str):
    config = composed(f"model={model}")
    assert config["suite"]["name"] == suite
    assert next(iter(config["suite"]["tasks"])) == first
    assert composed(f"model={model}", f"suite={suite}") == config


@pytest.mark.parametrize("model", sorted(path.stem for path in (CONF / "model").glob("[!_]*.yaml")))
def test_every_model_is_a_plan(model: str):
    plan = parse_merge(composed(f"model={model}"))
    assert plan.model.name == model
    assert plan.model.spec.base == plan.model.base
    sources = [plan.model.adapter_of(task) for task in plan.suite.task_names]
    assert len(set(sources)) == {"vision": 8, "language": 6}[plan.suite.modality]


def test_a_model_may_spell_a_task_in_its_own_way():
    model = parse_merge(composed("model=vit_b_16")).model
    assert model.adapter_of("stanford_cars") == "tanganke/clip-vit-base-patch16_stanford-cars_lora-16"
    assert model.adapter_of("svhn") == "tanganke/clip-vit-base-patch16_svhn_lora-16"


def test_some_tasks_of_a_suite_in_its_order():
    assert parse_merge(composed("tasks=[signs,digits]")).suite.task_names == ("digits", "signs")
    assert parse_merge(composed("tasks=signs")).suite.task_names == ("signs",)


RECIPES = sorted(path.stem for path in (CONF / "finetune").glob("*.yaml") if path.stem != "auto")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_plan(name: str):
    plan = parse_plan(composed(f"finetune={name}", entry="finetune")["finetune"])
    assert plan.kind in name.split("_")
    assert plan.seed == 420


def test_the_recipe_of_the_shipped_adapters():
    plan = parse_plan(composed("finetune=lora", entry="finetune")["finetune"])
    assert (plan.rank, plan.dropout, plan.steps, plan.batch_size) == (8, 0.0, 2000, 64)
    assert (plan.learning_rate, plan.warmup, plan.weight_decay, plan.scale) == (1.5e-3, 100, 0.01, 30)
    assert (plan.validate_every, plan.patience, plan.min_delta, plan.shift) == (200, 5, 0.0, 1)
    assert (plan.precision, plan.dtype) == ("32-true", "float16")


@pytest.mark.parametrize(("rank", "rate"), [(4, 8e-4), (16, 3e-4), (64, 8e-5), (256, 3e-5)])
def test_the_paper_s_recipe(rank: int, rate: float):
    config = composed("finetune=vision_lora", f"finetune.rank={rank}", entry="finetune")
    plan = parse_plan(config["finetune"])
    assert (plan.rank, plan.learning_rate, plan.dropout, plan.batch_size) == (rank, rate, 0.1, 32)
    assert (plan.steps, plan.warmup, plan.weight_decay) == (50_000, 500, 0.1)
    assert (plan.validate_every, plan.patience, plan.min_delta) == (2000, 5, 1e-3)
    assert (plan.scale, plan.shift, plan.dtype) == (100, 0, "float32")


def test_the_paper_s_recipe_for_pairs():
    plan = parse_plan(composed("finetune=nli_lora", entry="finetune")["finetune"])
    assert (plan.rank, plan.learning_rate, plan.dropout, plan.batch_size) == (16, 3e-5, 0.1, 1)
    assert plan.modules == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert (plan.warmup, plan.schedule, plan.validate_every) == (0.06 * plan.steps, "linear", 4000)
    assert (plan.base_precision, plan.precision, plan.dtype) == ("bf16", "bf16-mixed", "float32")


def test_a_learning_rate_may_take_the_place_of_the_table():
    overrides = ("finetune=vision_lora", "finetune.rank=8", "finetune.learning_rate=5e-4")
    plan = parse_plan(composed(*overrides, entry="finetune")["finetune"])
    assert (plan.rank, plan.learning_rate) == (8, 5e-4)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """The configuration with one more model, which names no recipe."""
    for entry in CONF.iterdir():
        if entry.name != "model":
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "bare.yaml").write_text("name: bare\ndefault_suite: mini_vision8\n")
    return tmp_path


def test_finetune_auto_is_the_recipe_that_the_model_names(conf: Path):
    assert composed(entry="finetune")["finetune"] == composed("finetune=lora", entry="finetune")["finetune"]
    config = composed("model=vit_b_32", "finetune.steps=10", entry="finetune")
    assert (config["finetune"]["rank"], config["finetune"]["steps"]) == (16, 10)
    assert composed("model=vit_b_32_full", entry="finetune")["finetune"]["kind"] == "full"
    chosen = composed("model=vit_b_32", "finetune=full", entry="finetune")
    assert chosen["finetune"]["learning_rate"] == 2e-4
    with pytest.raises(ConfigCompositionException) as failed:
        composed("model=bare", entry="finetune", conf=conf)
    expected = "model 'bare' names no default_finetune; choose one with finetune=..."
    assert mistake_of(failed.value) == expected


@pytest.mark.parametrize("entry", ["merge", "finetune"])
def test_runs_are_grouped_by_experiment_or_else_by_model_and_suite(entry: str):
    assert composed("logger=wandb", entry=entry)["logger"]["group"] == "mini_clip-mini_vision8"
    part_of_one = composed("logger=wandb", "+experiment.name=mini_table1", entry=entry)
    assert part_of_one["logger"]["group"] == "mini_table1"


def test_runs_of_an_experiment_are_one_group():
    assert composed("logger=wandb", entry="reproduce")["logger"]["group"] == "mini_table1"


def test_a_suite_of_another_modality_is_refused():
    with pytest.raises(KnotsError, match=r"'nli6' is of language, but model 'mini_clip' takes vision"):
        parse_merge(composed("suite=nli6"))


@pytest.mark.parametrize("name", MERGES)
def test_every_merge_choice_is_a_plan_called_by_its_own_name(name: str):
    plan = parse_merge(composed(f"merge={name}"))
    assert plan.label == name
    assert plan.kind == (name if name in KINDS else "merged")
    if plan.kind == "merged":
        assert {key: plan.options[key] for key in METHODS[name]} == dict(METHODS[name])


def test_the_issue_s_merges_are_all_there():
    assert set(MERGES) == {
        *("task_arithmetic", "ties", "dare_ties", "knots_ties", "knots_dare_ties", "knots_rows_ties"),
        *("core_ties", "core_tsv", "dare_task_arithmetic", "regmean", "fisher"),
        *("knots_ties_unscaled", "knots_tsv_unscaled"),
        *("ties_count", "knots_ties_count", "dare_ties_count", "knots_dare_ties_count"),
        *("ensemble", "zero_shot", "finetuned", "single", "multitask", "router"),
    }


@pytest.mark.parametrize("group", ["eval", "trainer", "paths", "data"])
def test_every_choice_of_every_other_group_is_a_plan(group: str):
    for path in (CONF / group).glob("[!_]*.yaml"):
        parse_merge(composed(f"{group}={path.stem}"))


def test_every_suite_is_a_plan_with_a_model_that_names_it():
    for path in (CONF / "model").glob("[!_]*.yaml"):
        suite = yaml.safe_load(path.read_text()).get("default_suite")
        if suite is not None:
            assert parse_merge(composed(f"model={path.stem}", f"suite={suite}")).suite.name == suite


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("merge.scale=much", r"merge.scale='much'; a number is needed"),
        ("merge.density=true", r"merge.density=True; a number is needed"),
        ("merge.weights=3", r"merge.weights=3; a list of numbers is needed"),
        ("merge.isotropize=1", r"merge.isotropize=1; true or false is needed"),
        ("batch_size=0", r"batch_size=0; a whole number of 1 or more"),
        ("batch_size=null", r"batch_size=None; a whole number of 1 or more"),
        ("seed=-1", r"seed=-1; a whole number of 0 or more"),
        ("max_rank=1.5", r"max_rank=1.5; a whole number"),
        ("max_rank=whole", r"max_rank='whole'; a whole number"),
        ("split=tset", r"unknown split 'tset'; did you mean 'test'"),
        ("eval.mode=joined", r"unknown eval.mode 'joined'; did you mean 'joint'"),
        ("eval.protocol=fp16", r"unknown eval.protocol 'fp16'"),
        ("precision=64", r"unknown precision '64'"),
        ("normalize_by=paper", r"unknown normalize_by 'paper'"),
        ("adapters=/some/folder", r"adapters='/some/folder' has no \{task\}"),
        ("force=maybe", r"force='maybe'; true or false"),
        ("merge.kind=merge", r"unknown merge.kind 'merge'; did you mean 'merged'"),
        ("tasks=[sings]", r"unknown task of suite 'mini_vision8': 'sings'; did you mean 'signs'"),
        ("tasks=[]", r"no tasks of suite 'mini_vision8' are named"),
        ("tasks=3", r"tasks=3; names are needed"),
        ("data.transform=torchvision", r"unknown data.transform 'torchvision'"),
        ("data.workers=0", r"data.workers=0; a whole number"),
        ("data.skip_broken=1", r"data.skip_broken=1; true or false"),
        ("model.updates=dora", r"unknown model.updates 'dora'"),
        ("model.text={open_clip:ViT-B-32}", r"model.text=.*open_clip and weights"),
        ("+merge.calibration={examples:0,split:train,seed:0}", r"merge.calibration.examples=0"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(override: str, message: str):
    with pytest.raises(KnotsError, match=message):
        parse_merge(composed(override))


def test_one_task_s_adapter_is_named_by_the_task_or_chosen():
    assert parse_merge(composed("merge=single")).adapter == "best"
    plan = parse_merge(composed("merge=single", "merge.adapter=signs"))
    assert (plan.adapter, plan.label, plan.options) == ("signs", "single (signs)", {})
    for overrides, message in (
        (("merge=single", "merge.adapter=sings"), r"unknown merge.adapter 'sings'; did you mean 'signs'"),
        (("merge=single", "tasks=[signs]", "merge.adapter=digits"), r"unknown merge.adapter 'digits'"),
        (("merge=router", "+merge.adapter=signs"), r"merge.adapter='signs' is for merge=single"),
        (("merge=ties", "+merge.adapter=signs"), r"merge.adapter='signs' is for merge=single"),
    ):
        with pytest.raises(KnotsError, match=message):
            parse_merge(composed(*overrides))


def test_what_is_for_images_alone_is_refused_for_sentences():
    for kind, why in (("ensemble", "has no ensemble"), ("router", "nothing is joint")):
        with pytest.raises(KnotsError, match=rf"merge={kind}: suite 'mini_nli6' is of language, .*{why}"):
            parse_merge(composed("model=mini_llama", f"merge={kind}"))
    assert parse_merge(composed("model=mini_llama", "merge=single")).kind == "single"


def test_the_recipes_of_several_tasks_differ_from_those_of_one_in_their_steps_alone():
    for one in ("lora", "vision_lora"):
        several, single = (
            parse_plan(composed(f"finetune={name}", entry="finetune")["finetune"])
            for name in (f"{one}_multitask", one)
        )
        assert several.steps > single.steps
        changed = {key for key, value in vars(single).items() if value != getattr(several, key)}
        assert changed == {"steps", "validate_every"}


def test_what_merges_nothing_takes_no_options():
    with pytest.raises(KnotsError, match=r"merge.scale=0.3: zero_shot merges nothing"):
        parse_merge(composed("merge=zero_shot", "+merge.scale=0.3"))


def test_a_changed_method_is_called_by_its_new_name():
    assert parse_merge(composed("merge=ties", "merge.space=knots")).label == "knots_ties"
    assert parse_merge(composed("merge=ties", "merge.drop=0.5")).label == "dare_ties"
    assert parse_merge(composed("merge=ties", "merge.rule=/a/b.py:f")).label == "full x b.py:f"
    assert parse_merge(composed("merge=ties_count", "merge.space=knots")).label == "knots_ties_count"
    assert parse_merge(composed("merge=knots_ties_unscaled", "merge.trim=model")).label == (
        "knots_unscaled x ties"
    )
    assert parse_merge(composed("merge=core_ties", "+merge.elect=count")).label == "core x ties"
    assert parse_merge(composed("merge=ties", "merge.trim=module")).label == "ties"


def test_a_rule_put_in_the_place_of_ties_gets_no_density():
    assert parse_merge(composed("merge=knots_ties")).options["density"] == 0.2
    assert parse_merge(composed("merge=knots_ties", "merge.rule=mine.py:f")).options["density"] == 1.0
    chosen = composed("merge=knots_ties", "merge.rule=mine.py:f", "merge.density=0.5")
    assert parse_merge(chosen).options["density"] == 0.5
