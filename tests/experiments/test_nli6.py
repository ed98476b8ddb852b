"""`model=llama3_8b` from the command line, against a hub on loopback with repositories of the real layout.

The base is tiny here; `test_wide_llama.py` rehearses the true width.
"""

import io
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.experiments.rehearsing import Command, check_fault, check_partial_copy, metrics
from tests.hub import Hub, files_of
from tests.language import LAYERS, WIDTH, tiny_llama
from tests.rehearsal_nli import BASE, PATTERN, adapter_tensors, serve_adapters
from tests.suites.nli6 import SIZES, TASKS, rows_of, serve_nli6, size_overrides
from tests.suites.sentences import write_rows


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    """What the hub holds, made once."""
    folder = tmp_path_factory.mktemp("shelf")
    shelf = Hub()
    shelf.stop()
    shelf.models[BASE] = files_of(tiny_llama(folder / "base"))
    serve_adapters(shelf, folder / "adapters", WIDTH, WIDTH // 2, LAYERS, rank=2)
    serve_nli6(shelf, folder / "data")
    return shelf


@pytest.fixture
def hub(hub: Hub, shelf: Hub) -> Hub:
    """The hub of the test, with these repositories."""
    return hub.stocked(shelf)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    return [
        "model=llama3_8b",
        "suite=nli6",
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
    assert "options: scale 0.5, density 1, drop 0 (published for llama3_8b" in done.out
    assert "also published: scale 1, density 0.4" in done.out
    found = metrics(tmp_path, "knots_ties")
    assert (found["mode"], found["modality"]) == ("per_task", "language")
    assert set(found["joint"].values()) == {None}
    assert {task: row["n"] for task, row in found["per_task"].items()} == {
        task: SIZES[task]["test"] for task in TASKS
    }
    table = pd.read_parquet(found["folder"] / "predictions.parquet")
    for task, absent in (("qnli", 1), ("rte", 1), ("scitail", 2)):
        rows = table[table.task == task]
        assert not (rows.prediction == absent).any()
        assert not (rows.label == absent).any()
        assert found["per_task"][task]["majority"] >= 50
    # In bf16, beside weights that are kept; and what was merged is saved with every task's head.
    assert json.loads((found["folder"] / "provenance.json").read_text())["identity"]["precision"] == "bf16"
    assert (found["folder"] / "adapter" / "heads.safetensors").is_file()
    assert "base" in done.out
    assert "majority class" in done.out
    # Nothing is fetched that is not needed, and nothing twice.
    assert len(hub.downloads) == len(set(hub.downloads))
    assert not [name for name in hub.downloads if "train" in name.rpartition("/")[2]]
    assert sum(name.endswith("adapter_model.bin") for name in hub.downloads) == 7
    hub.stop()
    again = command("merge", [*arguments, "merge=ties"])
    assert again.code == 0, again.err
    assert metrics(tmp_path, "ties")["merge"]["scale"] == 0.5


def test_every_merge_but_the_ensemble_runs(hub: Hub, command: Command, arguments: list[str], tmp_path: Path):
    methods = "zero_shot,finetuned,task_arithmetic,dare_ties,knots_dare_ties,core_tsv,regmean,fisher"
    sweep = ["-m", f"merge={methods}", "precision=32", "tasks=[snli,rte,scitail]"]
    done = command("merge", [*sweep, *arguments])
    assert (done.code, done.err) == (0, "")
    for method in methods.split(","):
        assert list(metrics(tmp_path, method)["per_task"]) == ["snli", "rte", "scitail"]
    refused = command("merge", [*arguments, "merge=ensemble"])
    assert refused.code == 2
    assert "has no ensemble" in refused.err


def test_published_references_normalize(hub: Hub, command: Command, arguments: list[str], tmp_path: Path):
    done = command("merge", [*arguments, "normalize_by=published", "tasks=[mnli,rte]"])
    assert (done.code, done.err) == (0, "")
    row = metrics(tmp_path, "knots_ties")["per_task"]["rte"]
    assert row["finetuned"] == 89.86
    assert row["normalized"] == pytest.approx(100 * row["accuracy"] / 89.86)


def test_modes_and_protocols_that_language_has_not(hub: Hub, command: Command, arguments: list[str]):
    for override, words in (
        ("eval=joint", "eval=joint: suite 'nli6' is of language"),
        ("eval.protocol=reference", "precision=32"),
        ("suite=mini_vision8", "suite 'mini_vision8' is of vision, but model 'llama3_8b' takes language"),
        ("model.updates=full", "model.updates='full' is for models of family 'clip'"),
        ("+model.text=null", "unknown key of a model of family 'classifier': 'text'"),
        ("precision=8", "unknown precision '8'"),
        ("batch_tokens=0", "batch_tokens=0"),
    ):
        done = command(
            "merge", [*(a for a in arguments if "suite=" not in override or "suite" not in a), override]
        )
        assert (done.code, done.err.count("error: ")) == (2, 1), override
        assert words in done.err


def test_a_folder_replaces_an_id(hub: Hub, command: Command, arguments: list[str], tmp_path: Path):
    folder = tmp_path / "mine"
    write_rows(folder / "validation.jsonl", 2 * rows_of("rte", "validation"))
    override = [f"suite.tasks.rte.source.path={folder}", "suite.tasks.rte.sizes.test=10"]
    done = command("merge", [*arguments, *override, "tasks=[rte]", "merge=zero_shot"])
    assert (done.code, done.err) == (0, "")
    assert metrics(tmp_path, "zero_shot")["per_task"]["rte"]["n"] == 10
    assert not [name for name in hub.downloads if name.endswith(".jsonl")]


def without_head(seed: int) -> bytes:
    content = io.BytesIO()
    tensors = adapter_tensors(seed, WIDTH, WIDTH // 2, LAYERS, 2)
    tensors.pop("base_model.model.score.weight")
    torch.save(tensors, content)
    return content.getvalue()


def test_heads_come_from_a_file_where_the_adapters_have_none(
    hub: Hub, command: Command, arguments: list[str], tmp_path: Path
):
    assert command("merge", [*arguments, "tasks=[sick,rte]"]).code == 0
    expected = metrics(tmp_path, "knots_ties")
    heads = {}
    for seed, task in enumerate(TASKS):
        repo = PATTERN.format(task)
        hub.models[repo] = {**hub.models[repo], "adapter_model.bin": without_head(seed)}
        tensors = adapter_tensors(seed, WIDTH, WIDTH // 2, LAYERS, 2)
        heads[task] = tensors["base_model.model.score.weight"]
    mine = [*arguments, f"paths.output_dir={tmp_path}/mine", "tasks=[sick,rte]"]
    refused = command("merge", mine)
    assert refused.code == 2
    for word in ("task 'sick' has no head", PATTERN.format("sick"), "score.weight", "model.heads="):
        assert word in refused.err
    assert list((tmp_path / "mine").rglob("metrics.json")) == []
    save_file(heads, tmp_path / "heads.safetensors")
    done = command("merge", [*mine, f"model.heads={tmp_path}/heads.safetensors"])
    assert (done.code, done.err) == (0, "")
    (found,) = (
        json.loads(path.read_text())
        for path in (tmp_path / "mine" / "merge").glob("*/metrics.json")
        if '"knots_ties"' in path.read_text()
    )
    assert found["per_task"] == expected["per_task"]
    (saved,) = (tmp_path / "mine").rglob("heads.safetensors")
    assert torch.equal(load_file(saved)["rte.weight"], heads["rte"])


def test_what_stands_for_the_base_must_be_a_zero_update(hub: Hub, command: Command, arguments: list[str]):
    hub.models[PATTERN.format("pretrained_model")] = hub.models[PATTERN.format("rte")]
    done = command("merge", arguments)
    assert done.code == 2
    assert "pretrained_model' is no zero update" in done.err
    assert command("merge", [*arguments, "model.pretrained=null", "tasks=[rte,sick]"]).code == 0


FAULTS = [
    ("dataset", "missing", ["SetFit/qnli", "no such repository"]),
    ("dataset", "gated", ["SetFit/qnli", "gated", "hf auth login"]),
    ("dataset", "drops", ["SetFit/qnli", "try again"]),
    ("dataset", "truncates", ["SetFit/qnli"]),
    ("dataset", "server_error", ["SetFit/qnli", "500"]),
    ("adapter", "missing", ["KnOTS-Llama3_8B_lora_R16_qnli", "no such repository"]),
    ("adapter", "drops", ["KnOTS-Llama3_8B_lora_R16_qnli", "try again"]),
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
    repo = {"dataset": "SetFit/qnli", "adapter": PATTERN.format("qnli"), "base": BASE}[what]
    chosen = [*arguments, "merge=finetuned", "tasks=[qnli,scitail]"]
    check_fault(hub, command, chosen, tmp_path, monkeypatch, (repo, fault, words))


def test_without_a_network_from_the_start_the_way_out_is_named(
    hub: Hub, command: Command, arguments: list[str]
):
    hub.stop()
    done = command("merge", arguments)
    assert done.code == 2
    assert "cannot be reached" in done.err
    assert "local copy" in done.err


def test_a_partial_copy_is_not_taken_for_the_whole(hub: Hub, command: Command, arguments: list[str]):
    check_partial_copy(hub, command, [*arguments, "tasks=[qnli,scitail]"], PATTERN.format("qnli"))


def test_wrong_numbers_and_labels_are_errors(
    hub: Hub, command: Command, arguments: list[str], tmp_path: Path
):
    done = command("merge", [*arguments, "suite.tasks.snli.sizes.test=9", "merge=zero_shot"])
    assert done.code == 2
    assert "the test split of task 'snli'" in done.err
    assert "promise 9" in done.err
    assert "the data of the other 5 tasks is ready and kept" in done.err
    hidden = command(
        "merge", [*arguments, "suite.tasks.mnli.source.splits.test=test", "tasks=[mnli]", "merge=zero_shot"]
    )
    assert hidden.code == 2
    assert "mnli" in hidden.err
    assert "-1" in hidden.err
