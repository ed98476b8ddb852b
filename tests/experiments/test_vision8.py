"""`model=vit_b_32` from the command line, against a hub on loopback with repositories of the real layout.

The base is tiny here; `test_full_shape.py` rehearses the real shapes.
"""

import io
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from experiments._cli import CONF
from tests.experiments.rehearsing import Command, check_fault, check_partial_copy, metrics
from tests.hub import Hub, files_of
from tests.miniatures import LAYERS, WIDTH
from tests.rehearsal import (
    BASE,
    PATTERN,
    TASKS,
    adapter_tensors,
    size_overrides,
    sizes,
    vision_shelf,
    write_parquet,
)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    """What the hub holds, made once."""
    return vision_shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def hub(hub: Hub, shelf: Hub) -> Hub:
    """The hub of the test, with these repositories."""
    return hub.stocked(shelf)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    return [
        "model=vit_b_32",
        # The tiny base has features of another size than any model of open_clip.
        "model.text=null",
        f"paths.output_dir={tmp_path}/outputs",
        f"paths.cache_dir={tmp_path}/cache",
        "logger=none",
        "trainer=cpu",
        *size_overrides(),
    ]


def test_everything_comes_from_the_hub_and_then_from_the_cache(
    hub: Hub, command: Command, arguments: list[str], tmp_path: Path
):
    done = command("merge", arguments)
    assert (done.code, done.err) == (0, "")
    assert "published for vit_b_32" in done.out
    found = metrics(tmp_path, "knots_ties")
    assert found["merge"]["scale"] == 0.6
    assert found["joint"]["classes"] == 748
    assert found["joint"]["n"] == sum(sizes(task)["test"] for task in TASKS)
    assert {task: row["n"] for task, row in found["per_task"].items()} == {
        task: sizes(task)["test"] for task in TASKS
    }
    table = pd.read_parquet(found["folder"] / "predictions.parquet")
    assert len(table) == found["joint"]["n"]
    digits = table[table.task.isin(["mnist", "svhn"])]
    assert (digits.joint_label == 296 + digits.label).all()
    # Nothing is fetched that is not needed, and nothing twice.
    assert len(hub.downloads) == len(set(hub.downloads))
    assert not [name for name in hub.downloads if "contrast" in name or "train" in name]
    assert sum(name.endswith("adapter_model.bin") for name in hub.downloads) == 8
    hub.stop()
    again = command("merge", [*arguments, "merge=ties"])
    assert again.code == 0, again.err
    assert metrics(tmp_path, "ties")["joint"]["classes"] == 748


def test_other_splits_come_from_the_same_files(
    hub: Hub, command: Command, arguments: list[str], tmp_path: Path
):
    done = command("merge", [*arguments, "merge=regmean", "split=validation", "tasks=[mnist,svhn,sun397]"])
    assert (done.code, done.err) == (0, "")
    found = metrics(tmp_path, "regmean")
    assert list(found["per_task"]) == ["mnist", "sun397", "svhn"]
    assert {row["n"] for row in found["per_task"].values()} == {2}
    assert "regmean: looking at 256 train items" in done.out


@pytest.mark.slow
def test_table_1_comes_from_the_hub_and_stands_beside_the_published_figures(
    hub: Hub, command: Command, arguments: list[str], tmp_path: Path
):
    own = [a for a in arguments if a.startswith(("paths.", "logger=", "trainer="))]
    runs = " ".join(a for a in arguments if a not in (*own, "model=vit_b_32"))
    done = command("reproduce", ["experiment=table1", *own, f"overrides={runs} eval.protocol=float32"])
    assert (done.code, done.err) == (0, "")
    (folder,) = (tmp_path / "outputs" / "table1").glob("[!.]*")
    record = json.loads((folder / "metrics.json").read_text())
    sheet, costs, differences = record["sheets"]
    rows = {row["label"]: row for row in sheet["rows"]}
    least = [cell["ours"] for cell in rows.pop("minimal detectable difference")["cells"]]
    assert any(value is not None for value in least)
    average = rows["KnOTS-TIES"]["cells"][-1]
    assert (average["published"], average["second_hand"]) == (68.0, True)
    assert rows["KnOTS-TIES"]["missing"] is None
    cells = dict(zip(sheet["columns"], rows["Fine-tuned"]["cells"], strict=True))
    assert (cells["stanford_cars"]["published"], cells["stanford_cars"]["second_hand"]) == (74.0, False)
    # With a handful of items some fine-tuned accuracies are 0, by which nothing is normalized.
    assert cells["mnist"]["ours"] is not None
    (lacking,) = [label for label, row in rows.items() if row["missing"] is not None]
    assert lacking == "Multi-task LoRA"
    assert rows[lacking]["missing"].startswith(
        "model 'vit_b_32' has no adapter that was trained on all tasks"
    )
    assert all(cell["run"] for label, row in rows.items() for cell in row["cells"] if label != lacking)
    assert "68.0" in done.out
    assert [row["label"] for row in costs["rows"]] == list(rows)[4:]
    # Every gap between published figures is there, and grey where these few items cannot tell it from none.
    gaps = [
        (cell, smallest)
        for row in differences["rows"]
        for cell, smallest in zip(row["cells"], least, strict=True)
        if cell["published"] is not None
    ]
    assert gaps
    assert all(cell["faint"] == (low is not None and abs(cell["published"]) < low) for cell, low in gaps)
    # All rows share one copy of everything.
    assert len(hub.downloads) == len(set(hub.downloads))
    # The official masks and seed belong to the published options.
    (note,) = [note for note in sheet["notes"] if note.startswith("DARE-TIES:")]
    assert "scale 0.6, drop 0.2, seed 424; gstoica27/KnOTS@baa35e8" in note


def test_published_references_normalize(hub: Hub, command: Command, arguments: list[str], tmp_path: Path):
    done = command("merge", [*arguments, "normalize_by=published", "tasks=[mnist,dtd]", "eval=per_task"])
    assert (done.code, done.err) == (0, "")
    row = metrics(tmp_path, "knots_ties")["per_task"]["mnist"]
    assert row["finetuned"] == 99.3
    assert row["normalized"] == pytest.approx(100 * row["accuracy"] / 99.3)
    refused = command("merge", [*arguments, "normalize_by=published", "model.name=mine", "tasks=[mnist]"])
    assert refused.code == 2
    assert "no published fine-tuned accuracy" in refused.err


def test_a_folder_replaces_an_id(hub: Hub, command: Command, arguments: list[str], tmp_path: Path):
    folder = tmp_path / "mine"
    write_parquet(folder / "test-00000-of-00001.parquet", 20, 10, seed=5)
    override = [f"suite.tasks.mnist.source.path={folder}", "suite.tasks.mnist.sizes.test=16"]
    done = command("merge", [*arguments, *override, "tasks=[mnist]", "merge=zero_shot"])
    assert (done.code, done.err) == (0, "")
    assert metrics(tmp_path, "zero_shot")["per_task"]["mnist"]["n"] == 16
    assert not [name for name in hub.downloads if "mnist" in name and name.endswith(".parquet")]


FAULTS = [
    ("dataset", "missing", ["tanganke/gtsrb", "no such repository"]),
    ("dataset", "gated", ["tanganke/gtsrb", "gated", "hf auth login"]),
    ("dataset", "drops", ["tanganke/gtsrb", "try again"]),
    ("dataset", "truncates", ["tanganke/gtsrb"]),
    ("dataset", "server_error", ["tanganke/gtsrb", "500"]),
    ("adapter", "missing", ["KnOTS-ViT-B-32_lora_R16_gtsrb", "no such repository"]),
    ("adapter", "drops", ["KnOTS-ViT-B-32_lora_R16_gtsrb", "try again"]),
    ("base", "gated", [BASE, "gated", "accept its terms"]),
    ("base", "bad_token", ["refuses the token", "HF_TOKEN"]),
]


@pytest.mark.parametrize(("what", "fault", "words"), FAULTS)
def test_a_fault_of_the_hub_is_one_message_and_what_is_done_is_kept(
    hub: Hub,
    command: Command,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    fault: str,
    words: list[str],
):
    repo = {"dataset": "tanganke/gtsrb", "adapter": PATTERN["vit_b_32"].format("gtsrb"), "base": BASE}[what]
    chosen = [*arguments, "merge=finetuned", "tasks=[gtsrb,mnist]"]
    check_fault(hub, command, chosen, tmp_path, monkeypatch, (repo, fault, words))


def test_without_a_network_from_the_start_the_way_out_is_named(
    hub: Hub, command: Command, arguments: list[str]
):
    hub.stop()
    done = command("merge", arguments)
    assert done.code == 2
    assert PATTERN["vit_b_32"].format(TASKS[0]) in done.err
    assert "cannot be reached" in done.err
    assert "local copy" in done.err


def test_a_partial_copy_is_not_taken_for_the_whole(hub: Hub, command: Command, arguments: list[str]):
    check_partial_copy(hub, command, [*arguments, "tasks=[gtsrb,mnist]"], PATTERN["vit_b_32"].format("gtsrb"))


def test_a_wrong_number_of_items_is_an_error(hub: Hub, command: Command, arguments: list[str]):
    done = command("merge", [*arguments, "suite.tasks.svhn.sizes.test=9", "merge=zero_shot"])
    assert done.code == 2
    assert "the test split of task 'svhn' has 8 images" in done.err
    assert "promise 9" in done.err
    assert "the data of the other 7 tasks is ready and kept" in done.err


def test_broken_pictures_are_named_counted_and_skipped_on_request(
    hub: Hub, command: Command, arguments: list[str], tmp_path: Path
):
    folder = tmp_path / "folders"
    for number in range(10):
        place = folder / "test" / str(number)
        place.mkdir(parents=True)
        for item in range(3):
            content = io.BytesIO()
            Image.new("RGB", (20 + item, 30), (25 * number, 80, 10)).save(content, "PNG")
            whole = content.getvalue()
            (place / f"{number}-{item}.png").write_bytes(whole[:60] if (number, item) == (4, 1) else whole)
    override = [
        f"suite.tasks.mnist.source.path={folder}",
        "suite.tasks.mnist.sizes.test=24",
        "tasks=[mnist]",
        "merge=zero_shot",
        "eval=per_task",
    ]
    for seed in range(420, 440):  # a split that the broken picture is in
        here = [*override, f"suite.tasks.mnist.source.validation.seed={seed}"]
        done = command("merge", [*arguments, *here])
        if done.code:
            break
    assert "1 of 24 images are broken" in done.err
    assert "4-1.png" in done.err
    assert "data.skip_broken=true" in done.err
    skipped = command("merge", [*arguments, *here, "data.skip_broken=true"])
    assert (skipped.code, skipped.err) == (0, "")
    assert "4-1.png" in skipped.out
    found = [json.loads(p.read_text()) for p in (tmp_path / "outputs" / "merge").glob("*/metrics.json")]
    assert 23 in {run["per_task"]["mnist"]["n"] for run in found}


@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_adapters_of_either_key_layout_are_the_same_run(
    prefix: str, hub: Hub, command: Command, arguments: list[str], tmp_path: Path
):
    """Adapters trained on a model whose tower is called `vision_model` carry that name in their keys."""
    for seed, task in enumerate(TASKS[:2]):
        content = io.BytesIO()
        torch.save(adapter_tensors(seed, WIDTH, LAYERS, 2, prefix), content)
        repo = PATTERN["vit_b_32"].format(task)
        hub.models[repo] = {**hub.models[repo], "adapter_model.bin": content.getvalue()}
    done = command("merge", [*arguments, "tasks=[stanford_cars,dtd]", "eval=joint"])
    assert (done.code, done.err) == (0, "")
    table = pd.read_parquet(metrics(tmp_path, "knots_ties")["folder"] / "predictions.parquet")
    (tmp_path.parent / "layouts").mkdir(exist_ok=True)
    kept = tmp_path.parent / "layouts" / "ranks.parquet"
    if prefix:
        assert table.joint_rank.tolist() == pd.read_parquet(kept).joint_rank.tolist()
    else:
        table.to_parquet(kept)


def full_finetunes(base: Path, folder: Path) -> None:
    """Whole vision towers that moved a little, as they are on the hub: keys below `vision_model.`."""
    weights = load_file(base / "model.safetensors")
    tower = {key: tensor for key, tensor in weights.items() if key.startswith("vision_model.")}
    for seed, task in enumerate(TASKS):
        generator = torch.Generator().manual_seed(seed)
        moved = {
            key: tensor + 0.05 * torch.randn(tensor.shape, generator=generator)
            for key, tensor in tower.items()
            if tensor.is_floating_point()
        }
        (folder / task).mkdir(parents=True)
        save_file(moved, folder / task / "model.safetensors")
        (folder / task / "config.json").write_text("{}")


# Shown as a line of the run's log, as every warning to a user.
@pytest.mark.filterwarnings("always:full fine-tune")
@pytest.mark.parametrize("model", ["vit_l_14", "vit_b_16", "vit_b_32_full"])
def test_the_other_models_run_too(
    model: str, hub: Hub, shelf: Hub, command: Command, arguments: list[str], tmp_path: Path
):
    plan = yaml.safe_load((CONF / "model" / f"{model}.yaml").read_text())
    hub.models = {plan.get("base", BASE): shelf.models[BASE]}
    if model == "vit_b_32_full":
        (tmp_path / "base").mkdir()
        for name, content in shelf.models[BASE].items():
            (tmp_path / "base" / name).write_bytes(Path(content).read_bytes())
        full_finetunes(tmp_path / "base", tmp_path / "full")
        adapters = {task: files_of(tmp_path / "full" / task) for task in TASKS}
    else:
        adapters = {task: shelf.models[PATTERN["vit_b_32"].format(task)] for task in TASKS}
    spelling = plan.get("spelling", {})
    for task in TASKS:
        hub.models[plan["adapters"].replace("{task}", spelling.get(task, task))] = adapters[task]
    done = command("merge", [f"model={model}", *arguments[1:], "eval=per_task"])
    assert (done.code, done.err) == (0, "")
    found = metrics(tmp_path, "knots_ties")
    assert found["model"] == model
    assert list(found["per_task"]) == list(TASKS)
    assert (found["merge"]["source"] is not None) == (model == "vit_l_14")
    if model == "vit_b_32_full":
        assert "biases, norms and embeddings" in done.out
