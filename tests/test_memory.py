"""Peak memory of whole runs: one base and the adapters, whatever is merged; never a model a task."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from knots.adapters import Adapter, save_adapter
from knots.updates import LowRank
from tests.miniatures import tiny_clip
from tests.peak_memory import NAMES

REPOSITORY = Path(__file__).resolve().parents[1]
WIDTH, LAYERS, RANK = 512, 16, 16
VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_attention_heads": 8,
    "num_hidden_layers": LAYERS,
    "image_size": 32,
    "patch_size": 16,
}
MODULES = [
    f"encoder.layers.{layer}.self_attn.{name}_proj"
    for layer in range(LAYERS)
    for name in ("q", "k", "v", "out")
]

MIB = 2**20
BASE = 4 * LAYERS * 12 * WIDTH**2
"""Bytes of the base in float32: 192 MiB, but for its small text tower and its biases."""
TOUCHED = 4 * len(MODULES) * WIDTH**2
"""Bytes of the weights that the adapters touch: 64 MiB."""
ADAPTERS = 4 * len(NAMES) * len(MODULES) * 2 * WIDTH * RANK
"""Bytes of all adapters: 32 MiB."""
ALLOWANCE = 48 * MIB
"""For activations, predictions, plots, one module's work; 24 to 30 MiB were seen."""

BOUNDS = {
    # While a merge or an adapter is folded in, the originals of its weights are kept.
    "finetuned": TOUCHED,
    # The factors once more, stacked; its baseline, the fine-tuned models, takes more.
    "ensemble": TOUCHED,
    # A merge with as many columns as all adapters together.
    "knots_ties": TOUCHED + ADAPTERS,
    # A dense merge.
    "ties": TOUCHED + TOUCHED,
}
"""Bytes that a kind of run may need beside base and adapters; all but the first make their baselines too."""

RETURN_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""glibc keeps what is freed, in gaps that depend on chance; the peak shall be of what is held."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP of 200 MB and eight adapters of its attention, on disk."""
    folder = tmp_path_factory.mktemp("models")
    tiny_clip(folder / "base", vision=VISION)
    for seed, task in enumerate(NAMES):
        generator = torch.Generator().manual_seed(seed)
        updates = {
            module: LowRank(
                0.01 * torch.randn(WIDTH, RANK, generator=generator),
                0.1 * torch.randn(RANK, WIDTH, generator=generator),
            )
            for module in MODULES
        }
        save_adapter(Adapter(task, updates, prefix="vision_model."), folder / "adapters" / task)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a peak")
def test_a_run_needs_one_base_and_the_adapters(models: Path):
    command = [sys.executable, "-m", "tests.peak_memory", str(models), *BOUNDS]
    run = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, **RETURN_AT_ONCE},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    growth = json.loads(run.stdout.splitlines()[-1])
    assert list(growth) == list(BOUNDS)
    for kind, beside in BOUNDS.items():
        # The base is in it, or nothing was measured.
        assert growth[kind] > BASE
        assert growth[kind] < BASE + ADAPTERS + beside + ALLOWANCE, (kind, growth[kind] / MIB)
        # A second base would not have fit: not with the originals and a dense merge beside the first.
        assert growth[kind] < 2 * BASE + ADAPTERS
