"""The real shapes, from the command line: ViT-B/32, its text tower, eight rank-16 adapters, 748 classes.

Weights are random and pictures few; ids, files, formats and shapes are those of the hub. It takes some
minutes and 3 GB of disk, most of it for the files of the random models.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from experiments._cli import CONF
from tests.hub import Hub, files_of
from tests.rehearsal import TASKS, serve_adapters, serve_data, size_overrides

pytestmark = pytest.mark.slow

ROWS = {"train": 5, "test": 5}
METHODS = [
    *("zero_shot", "finetuned", "ensemble", "task_arithmetic", "ties", "dare_ties", "dare_task_arithmetic"),
    *("knots_ties", "knots_dare_ties", "knots_rows_ties", "core_ties", "core_tsv", "regmean", "fisher"),
]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("shelf")
    hub = Hub()
    hub.models["openai/clip-vit-base-patch32"] = files_of(vision_base(folder / "base"))
    hub.models["timm/vit_base_patch32_clip_224.openai"] = files_of(text_weights(folder / "open_clip"))
    serve_adapters(hub, folder / "adapters", "vit_b_32", width=768, layers=12)
    serve_data(hub, folder / "data", ROWS)
    yield hub
    hub.stop()


def vision_base(folder: Path) -> Path:
    """A CLIP whose configuration is transformers' default: OpenAI's ViT-B/32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(CLIPConfig()).half().save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    return folder


def text_weights(folder: Path) -> Path:
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = open_clip.create_model("ViT-B-32-quickgelu").half()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": open_clip.get_model_config("ViT-B-32-quickgelu"), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def run(hub: Hub, place: Path):
    def run(*overrides: str) -> subprocess.CompletedProcess:
        # Other tests run beside it, and threads that wait for each other would take their time.
        environment = {**hub.environment(place), "OMP_NUM_THREADS": "1"}
        command = [
            *(sys.executable, str(CONF.parent / "experiments" / "merge.py"), *overrides),
            *(
                "model=vit_b_32",
                "suite=vision8",
                "logger=none",
                "trainer=cpu",
                "batch_size=16",
                "max_rank=16",
            ),
            f"paths.cache_dir={place}/cache",
            *size_overrides(ROWS),
        ]
        options = {"cwd": place, "env": environment, "capture_output": True, "text": True, "timeout": 1500}
        return subprocess.run(command, check=False, **options)

    return run


def runs(place: Path) -> dict[str, Path]:
    found = {}
    for path in (place / "outputs" / "merge").glob("[!.]*/metrics.json"):
        found[json.loads(path.read_text())["merge"]["method"]] = path.parent
    return found


def test_all_methods_run_on_the_real_shapes(hub: Hub, run, place: Path):
    done = run("-m", f"merge={','.join(METHODS)}")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-3000:]
    found = runs(place)
    assert sorted(found) == sorted(METHODS)
    for method, folder in found.items():
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["joint"]["classes"] == 748, method
        assert metrics["joint"]["n"] == sum(row["n"] for row in metrics["per_task"].values())
        assert list(metrics["per_task"]) == list(TASKS)
        assert metrics["unscored"] == 0
        table = pd.read_parquet(folder / "predictions.parquet")
        assert len(table) == metrics["joint"]["n"]
        assert table.joint_rank.between(1, 748).all()
    # Every file once, and only what the tests needed.
    assert len(hub.downloads) == len(set(hub.downloads))
    assert not [name for name in hub.downloads if "contrast" in name]
    assert {name for name in hub.downloads if name.startswith("timm/")} == {
        f"timm/vit_base_patch32_clip_224.openai/{name}"
        for name in ("open_clip_config.json", "open_clip_model.safetensors")
    }


def test_the_same_command_without_a_network(hub: Hub, run, place: Path):
    hub.stop()
    done = run("merge=ties", "merge.scale=0.5", "eval=per_task")
    assert done.returncode == 0, done.stderr
    assert len(runs(place)) == len(METHODS)


def test_the_merge_is_what_the_library_gives(place: Path):
    """The saved adapter of knots_ties is the merge of the adapters, shortened to rank 16."""
    from safetensors.torch import load_file

    tensors = load_file(runs(place)["knots_ties"] / "adapter" / "adapter_model.safetensors")
    assert len(tensors) == 2 * 48
    assert {tuple(t.shape) for n, t in tensors.items() if "lora_A" in n} == {(16, 768)}
