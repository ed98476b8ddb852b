"""The true width of Llama 3 8B, from the command line: 4096, 32 heads on 8 keys, six full-width adapters.

Two layers instead of 32 and a small vocabulary; weights are random and pairs few. Ids, files, formats and the
shapes of every module are those of the hub. It takes some minutes and 1.5 GB of disk.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from experiments._cli import CONF
from tests.hub import Hub, files_of
from tests.language import SPECIAL, WORDS, tiny_text_tokenizer
from tests.rehearsal_nli import BASE, serve_adapters
from tests.suites.nli6 import SIZES, TASKS, serve_nli6, size_overrides

pytestmark = pytest.mark.slow

WIDTH, KV_WIDTH, LAYERS = 4096, 1024, 2
GIB = 2**20
"""In units of the resource module, which are KiB."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("shelf")
    hub = Hub()
    hub.models[BASE] = files_of(wide_llama(folder / "base"))
    serve_adapters(hub, folder / "adapters", WIDTH, KV_WIDTH, LAYERS)
    serve_nli6(hub, folder / "data")
    yield hub
    hub.stop()


def wide_llama(folder: Path) -> Path:
    """Two layers of the real shape in several bf16 files, as the real ones are."""
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=14336,
        num_hidden_layers=LAYERS,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        bos_token_id=SPECIAL.index("<start>"),
        eos_token_id=SPECIAL.index("<end>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).bfloat16()
    model.save_pretrained(folder, max_shard_size="300MB")
    tiny_text_tokenizer().save_pretrained(folder)
    assert (folder / "model.safetensors.index.json").is_file()
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place")


@pytest.mark.parametrize(("method", "precision"), [("knots_ties", 32), ("ties", 32), ("knots_ties", "bf16")])
def test_merging_and_evaluating_stays_within_ten_gigabytes(
    method: str, precision: int | str, hub: Hub, place: Path
):
    outputs = place / f"{method}-{precision}"
    command = [
        *(sys.executable, str(CONF.parent / "experiments" / "merge.py"), "model=llama3_8b", "suite=nli6"),
        *(f"merge={method}", f"precision={precision}", "logger=none", "trainer=cpu"),
        *(f"paths.output_dir={outputs}", f"paths.cache_dir={place}/cache", *size_overrides()),
    ]
    environment = {**hub.environment(place), "OMP_NUM_THREADS": "1"}
    with (place / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, (place / "log.txt").read_text()[-3000:]
    assert usage.ru_maxrss < 10 * GIB
    found = [json.loads(path.read_text()) for path in (outputs / "merge").glob("[!.]*/metrics.json")]
    (merged,) = (metrics for metrics in found if metrics["merge"]["method"] == method)
    assert {task: row["n"] for task, row in merged["per_task"].items()} == {
        task: SIZES[task]["test"] for task in TASKS
    }
    assert merged["unscored"] == 0
    (saved,) = (outputs / "merge").glob("*/adapter/adapter_model.safetensors")
    tensors = load_file(saved)
    assert len(tensors) == 2 * 4 * LAYERS
    if method == "knots_ties":
        assert {tuple(t.shape) for name, t in tensors.items() if "lora_A" in name} == {(96, WIDTH)}
    assert set(load_file(saved.parent / "heads.safetensors")) == {f"{task}.weight" for task in TASKS}
