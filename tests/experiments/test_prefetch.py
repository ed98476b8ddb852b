"""`experiments/prefetch.py` against a hub on loopback, and the runs that then need no hub."""

import errno
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets.config
import huggingface_hub.constants
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from experiments._cli import CONF, plain
from experiments._compose import composer
from experiments.reproduce import PUBLISHED
from knots.pipelines import prefetch as pipeline
from knots.pipelines.needs import Items, Need, experiment_needs
from knots.pipelines.parts import parts_of
from knots.pipelines.reproduce import parse_experiment
from knots.reporting.published import load_published
from knots.suites.data import Sample
from tests.experiments.rehearsing import Command, metrics
from tests.hub import Hub, files_of
from tests.language import tiny_llama
from tests.rehearsal import BASE, PATTERN, size_overrides, vision_shelf
from tests.rehearsal_nli import BASE as LLAMA
from tests.rehearsal_nli import PATTERN as LLAMA_PATTERN
from tests.rehearsal_nli import serve_adapters as serve_llama_adapters
from tests.suites import nli6

TWO = "tasks=[mnist,svhn]"
MNIST, SVHN = (PATTERN["vit_b_32"].format(task) for task in ("mnist", "svhn"))
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("[!_]*.yaml"))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    """What the hub holds, made once."""
    return vision_shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def hub(hub: Hub, shelf: Hub) -> Hub:
    """The hub of the test, with these repositories."""
    return hub.stocked(shelf)


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    return [f"paths.output_dir={tmp_path}/outputs", f"paths.cache_dir={tmp_path}/cache", "logger=none"]


@pytest.fixture
def arguments(places: list[str]) -> list[str]:
    # The tiny base has features of another size than any model of open_clip.
    return ["model=vit_b_32", "model.text=null", TWO, *places, *size_overrides()]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks in this process, without a hub, in place of a fresh one, which takes seconds to start."""

    def check(needs: Sequence[Need]) -> dict[str, pipeline.State]:
        with monkeypatch.context() as offline:
            offline.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
            offline.setattr(datasets.config, "HF_HUB_OFFLINE", True)
            return pipeline.check(needs)

    monkeypatch.setattr(pipeline, "check_apart", check)


def run_offline(hub: Hub, folder: Path, script: str, arguments: Sequence[str]) -> str:
    """An entry point in a process of its own, as on a node without a network; gives what it prints."""
    environment = {**hub.environment(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, str(CONF.parent / "experiments" / f"{script}.py"), "trainer=cpu", *arguments]
    done = subprocess.run(line, check=False, env=environment, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.slow
def test_what_was_fetched_is_all_that_a_run_without_a_hub_needs(
    hub: Hub, command: Command, arguments: list[str], tmp_path: Path
):
    done = command("prefetch", arguments)
    assert (done.code, done.err) == (0, ""), done.out
    for part in ("base", "adapter of mnist", "test split of svhn", "class features of vision8[mnist,svhn]"):
        assert part in done.out
    assert "missing" not in done.out
    assert len(hub.downloads) == len(set(hub.downloads))
    hub.stop()
    out = run_offline(hub, tmp_path, "merge", [*arguments, "merge=regmean"])
    assert "regmean: looking at 256 train items" in out
    for built in ("building", "embedding"):
        assert built not in out
    assert list(metrics(tmp_path, "regmean")["per_task"]) == ["mnist", "svhn"]


@pytest.mark.usefixtures("here")
def test_what_is_here_is_not_fetched_again(hub: Hub, command: Command, arguments: list[str]):
    assert command("prefetch", arguments).code == 0
    assert hub.downloads
    hub.downloads.clear()
    again = command("prefetch", arguments)
    assert (again.code, again.err) == (0, "")
    assert "building" not in again.out
    assert hub.downloads == []
    hub.requests.clear()
    assert command("prefetch", [*arguments, "fetch=false"]).code == 0
    assert hub.requests == []
    # Without a network it is still here.
    hub.stop()
    assert command("prefetch", arguments).code == 0


@pytest.mark.usefixtures("here")
def test_a_missing_adapter_is_named_and_keeps_no_other(hub: Hub, command: Command, arguments: list[str]):
    kept = hub.models.pop(MNIST)
    done = command("prefetch", arguments)
    assert (done.code, done.err.count("error: ")) == (2, 1)
    assert "Traceback" not in done.err + done.out
    assert "1 of 10 parts are not here, the others are: adapter of mnist: " in done.err
    assert "no such repository" in done.err
    assert sum(line.split()[-1:] == ["missing"] for line in done.out.splitlines()) == 1
    hub.models[MNIST] = kept
    hub.downloads.clear()
    assert command("prefetch", arguments).code == 0
    assert set(hub.downloads) == {f"{MNIST}/{name}" for name in ("adapter_config.json", "adapter_model.bin")}


@pytest.mark.usefixtures("here")
def test_a_gated_base_is_told_once_with_what_cannot_be_had_without_it(
    hub: Hub, command: Command, arguments: list[str]
):
    hub.faults[BASE] = "gated"
    done = command("prefetch", arguments)
    assert (done.code, done.err.count("error: ")) == (2, 1)
    assert "base: " in done.err
    assert f"accept its terms at {hub.url}/{BASE}" in done.err
    assert done.err.count("it cannot be had without the base") == 1
    assert "adapter" not in done.err
    assert sum("adapter_model.bin" in name for name in hub.downloads) == 2


@pytest.mark.usefixtures("here")
def test_several_faults_are_told_side_by_side(hub: Hub, command: Command, arguments: list[str]):
    hub.faults |= {"ufldl-stanford/svhn": "server_error", SVHN: "drops"}
    done = command("prefetch", [*arguments, "splits=[test]"])
    assert (done.code, done.err.count("error: ")) == (2, 1)
    for word in ("adapter of svhn", "try again", "test split of svhn", "500"):
        assert word in done.err
    assert "mnist" not in done.err


@pytest.mark.usefixtures("here")
def test_a_full_disk_is_one_message(
    hub: Hub, command: Command, arguments: list[str], monkeypatch: pytest.MonkeyPatch
):
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "cache/data/images.npy")

    monkeypatch.setattr("knots.suites.image_data.write_cached", no_space)
    done = command("prefetch", arguments)
    assert done.code == 2
    assert done.err == "error: cache/data/images.npy: No space left on device\n"


@pytest.mark.usefixtures("here")
def test_an_experiment_s_rows_share_their_parts(
    hub: Hub, command: Command, places: list[str], tmp_path: Path
):
    runs = " ".join(["model.text=null", TWO, "eval.protocol=float32", *size_overrides()])
    rows = "experiment.rows=[zero_shot,single,multitask,ties,regmean]"
    asked = ["experiment=table1", rows, "experiment.costs=false", f"overrides={runs}", *places]
    done = command("prefetch", asked)
    assert (done.code, done.err) == (0, ""), done.out
    # One base, two adapters, three lots of items of each task, and class features.
    assert "10 parts" in done.out
    assert len(hub.downloads) == len(set(hub.downloads))
    hub.stop()
    found = command("reproduce", [*asked, "trainer=cpu"])
    assert (found.code, found.err) == (0, "")
    assert "building" not in found.out
    (record,) = (tmp_path / "outputs" / "table1").glob("[!.]*/metrics.json")
    missing = {row["label"] for row in json.loads(record.read_text())["sheets"][0]["rows"] if row["missing"]}
    assert missing <= {"Multi-task LoRA"}


@pytest.mark.usefixtures("here")
def test_a_miniature_is_checked_where_it_is(command: Command, small: list[str], tmp_path: Path):
    arguments = [*small, "tasks=[digits,signs]", f"paths.cache_dir={tmp_path}/cache"]
    empty = command("prefetch", [*arguments, "fetch=false"])
    assert empty.code == 2
    # Base and adapters are here; items and class features are made.
    assert "7 of 11 parts are not here" in empty.err
    assert "base: " not in empty.err
    assert "adapter" not in empty.err
    assert not (tmp_path / "cache").exists()
    done = command("prefetch", arguments)
    assert (done.code, done.err) == (0, "")
    assert "adapter of all tasks" in done.out
    assert command("prefetch", [*arguments, "fetch=false"]).code == 0


@pytest.mark.usefixtures("here")
def test_heads_may_be_left_to_the_runs(command: Command, small: list[str], tmp_path: Path):
    arguments = [*small, "tasks=[digits]", f"paths.cache_dir={tmp_path}/cache", "heads=false"]
    done = command("prefetch", [*arguments, "splits=[train]"])
    assert (done.code, done.err) == (0, "")
    assert "class features" not in done.out
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"data"}


@pytest.mark.usefixtures("here")
def test_language_has_adapters_with_heads_and_one_that_is_the_base(
    hub: Hub, command: Command, places: list[str], tmp_path: Path
):
    hub.models = {LLAMA: files_of(tiny_llama(tmp_path / "base"))}
    serve_llama_adapters(hub, tmp_path / "adapters", 16, 8, 2, rank=2)
    nli6.serve_nli6(hub, tmp_path / "data")
    two = ["model=llama3_8b", "tasks=[rte,sick]", *nli6.size_overrides(), *places]
    done = command("prefetch", two)
    assert (done.code, done.err) == (0, "")
    assert "stand-in of the base" in done.out
    assert len(hub.downloads) == len(set(hub.downloads))
    hub.stop()
    run = command("merge", [*two, "trainer=cpu"])
    assert (run.code, run.err) == (0, "")
    assert "building" not in run.out
    # Without its head the adapter of a task is of no use, unless heads are left out.
    repository = LLAMA_PATTERN.format("rte").replace("/", "--")
    (file,) = (tmp_path / "huggingface").rglob(f"models--{repository}/snapshots/*/adapter_model.bin")
    tensors = torch.load(file, weights_only=True)
    file.unlink()
    torch.save({key: tensor for key, tensor in tensors.items() if "score" not in key}, file)
    broken = command("prefetch", [*two, "fetch=false"])
    assert broken.code == 2
    assert "1 of 10 parts are not here, the others are: adapter of rte: task 'rte' has no head" in broken.err
    assert command("prefetch", [*two, "fetch=false", "heads=false"]).code == 0


@pytest.mark.parametrize(("arguments", "message"), [
    (["splits=[tset]"], "unknown splits 'tset'; did you mean 'test'"),
    (["fetch=maybe"], "fetch='maybe'; true or false"),
    (["heads=some"], "heads='some'; true or false"),
    (["model=vit_b_33"], "unknown model 'vit_b_33'; did you mean 'vit_b_32'"),
    (["experiment=table9"], "unknown experiment 'table9'"),
    (["experiment=table1", "model=vit_l_14"], 'use overrides="model=vit_l_14"'),
    (["experiment=table1", "heads=1"], "heads=1; true or false"),
])  # fmt: skip
def test_a_mistake_is_one_message(command: Command, places: list[str], arguments: list[str], message: str):
    done = command("prefetch", [*places, *arguments])
    assert (done.code, done.err.count("error: ")) == (2, 1), done.err
    assert message in done.err
    assert "Traceback" not in done.err


Needs = Callable[..., list[Need]]


@pytest.fixture
def needs(tmp_path: Path):
    """The needs of an experiment, parsed as the entry point does."""
    with initialize_config_dir(str(CONF), version_base="1.3"):

        def parse(name: str) -> list[Need]:
            loader = GlobalHydra.instance().config_loader()
            asked = [f"experiment={name}", "logger=none", f"paths.output_dir={tmp_path}"]
            loaded = loader.load_configuration("prefetch", overrides=asked, run_mode=RunMode.RUN)
            del loaded._content["hydra"]
            config = {**plain(loaded), "run": True, "force": False}
            return experiment_needs(
                parse_experiment(config, composer(config), load_published(PUBLISHED)).plan
            )

        yield parse


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_needs_a_base_and_items(needs: Needs, name: str):
    parts = parts_of(needs(name))
    whats = [part.what for part in parts]
    assert whats.count("base") == 1
    assert any("split of" in what for what in whats)
    # What is trained on the way cannot be fetched.
    assert not [part.where for part in parts if "outputs" in part.where or "finetune/" in part.where]


def test_table_1_needs_what_its_rows_read(needs: Needs):
    found = needs("table1")
    items = {items for need in found for items in need.items}
    assert items == {Items("test"), Items("validation"), Items("train", Sample(256, 0))}
    whats = [part.what for part in parts_of(found)]
    # Base and text tower, eight adapters, three lots of items of each task, class features.
    assert len(whats) == 2 + 8 + 3 * 8 + 1


def test_figure_2_needs_full_fine_tunes_beside_the_adapters_and_no_heads(needs: Needs):
    parts = parts_of(needs("figure2"))
    full = [part for part in parts if part.what.startswith("full fine-tune")]
    assert [part.where for part in full][:2] == [
        "tanganke/clip-vit-base-patch32_stanford-cars",
        "tanganke/clip-vit-base-patch32_dtd",
    ]
    # They can only be held against the base.
    (base,) = (part.key for part in parts if part.what == "base")
    assert {part.base for part in full} == {base}
    whats = {part.what for part in parts}
    assert "128 items of the test split of mnist" in whats
    assert not [what for what in whats if "class features" in what or "text" in what]
    assert len(parts) == 1 + 8 + 8 + 8


def test_adapters_of_every_universe_are_needed(needs: Needs):
    places = [part.where for part in parts_of(needs("mini_shared_init")) if part.what == "adapter of signs"]
    assert sorted(places) == [f"asset:mini_clip/adapters/universe_{number}/signs" for number in range(5)]


@pytest.mark.parametrize("name", ["figure4", pytest.param("real_claims", marks=pytest.mark.slow)])
def test_what_is_trained_is_not_fetched_but_what_it_is_trained_on_is(needs: Needs, name: str):
    whats = {part.what for part in parts_of(needs(name))}
    assert "train split of mnist" in whats
    assert not [what for what in whats if what.startswith("adapter")]
