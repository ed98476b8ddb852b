"""Six adapters of Llama3-8B's real shapes, from folders to a folder: what it takes, and what comes out.

Times are the benchmark's to tell (`benchmarks/merging.py shape=llama3_8b`); here it is memory.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftConfig
from safetensors.torch import load_file

import knots
from benchmarks._adapters import SHAPES, write_adapters

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its memory as Linux tells it"),
]

REPOSITORY = Path(__file__).resolve().parents[1]
TASKS = ("snli", "mnli", "sick", "qnli", "rte", "scitail")
SIDES = {"q_proj": 4096, "k_proj": 1024, "v_proj": 1024, "o_proj": 4096}
WIDTH = 4096
GB = 10**9


def write(root: Path, layers: int) -> Path:
    shape = replace(SHAPES["llama3_8b"], modules=4 * layers)
    for task, folder in zip(TASKS, write_adapters(shape, root), strict=True):
        folder.rename(root / task)
    return root


def merge(folder: Path, out: Path, **options: object) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.merge_folders", str(folder), str(out), json.dumps(options)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write(tmp_path_factory.mktemp("whole") / "adapters", layers=32)
    sizes = {file.stat().st_size for file in folder.glob("*/adapter_model.bin")}
    assert {round(size / 1e6, 1) for size in sizes} == {54.7}  # as the hub lists them
    return folder


@pytest.mark.parametrize("density", [1.0, 0.2])
def test_knots_ties_over_the_whole_model(whole: Path, tmp_path: Path, density: float) -> None:
    out = tmp_path / "merged"
    used = merge(whole, out, space="knots", rule="ties", scale=0.5, density=density)
    assert used["error"] == 0
    assert used["peak"] < 6 * GB
    assert used["peak"] - used["before"] < 2 * GB  # the merge as matrices would be 5.4 GB
    merged = knots.load_adapter(out)
    assert len(merged.updates) == 128
    for name, update in merged.updates.items():
        assert update.shape == (SIDES[name.rpartition(".")[2]], WIDTH)
        assert update.rank <= 6 * 16
    config = PeftConfig.from_pretrained(str(out))
    assert (config.r, config.lora_alpha, config.task_type) == (96, 96, None)
    assert set(config.target_modules) == set(merged.updates)
    assert config.rank_pattern == config.alpha_pattern == {m: u.rank for m, u in merged.updates.items()}
    heads = load_file(out / "heads.safetensors")
    assert set(heads) == {f"{task}.weight" for task in TASKS}
    for task in TASKS:
        own = torch.load(whole / task / "adapter_model.bin", weights_only=True)
        assert torch.equal(heads[f"{task}.weight"], own["base_model.model.score.weight"])


def test_ties_in_full_space_holds_one_module_at_a_time(tmp_path: Path) -> None:
    """A quarter of the model, or it takes many minutes; one module's work is the same for all of it."""
    folder = write(tmp_path / "adapters", layers=8)
    out = tmp_path / "merged"
    used = merge(folder, out, space="full", rule="ties", scale=0.5, density=0.2, max_rank=64)
    dense = 8 * sum(SIDES.values()) * WIDTH * 4
    assert used["peak"] < 8 * GB
    assert used["peak"] - used["before"] < dense
    assert 0 < used["error"] < 1
    merged = knots.load_adapter(out)
    assert len(merged.updates) == 32
    assert {update.rank for update in merged.updates.values()} == {64}
