"""`experiments/merge.py` and `experiments/report.py`, from the command line to the files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.utilities.exceptions import SIGTERMException
from safetensors.torch import load_file, save_file

from experiments._cli import CONF
from tests.experiments.conftest import TASKS, Finished

Command = Callable[..., Finished]

MERGES = sorted(path.stem for path in (CONF / "merge").glob("[!_]*.yaml"))
SCRIPT = CONF.parent / "experiments" / "merge.py"


def runs_in(folder: Path) -> dict[str, Path]:
    """Method -> run folder."""
    found = {}
    for path in (folder / "outputs" / "merge").glob("[!.]*/metrics.json"):
        found[json.loads(path.read_text())["merge"]["method"]] = path.parent
    return found


def test_every_merge_runs_in_one_sweep_and_the_report_shows_them(
    command: Command, small: list[str], tmp_path: Path
):
    done = command("merge", ["-m", f"merge={','.join(MERGES)}", *small])
    assert (done.code, done.err) == (0, "")
    # The best single adapter is chosen by runs of all of them.
    found = {name: folder for name, folder in runs_in(tmp_path).items() if not name.startswith("single (")}
    assert sorted(found) == MERGES
    for method, folder in found.items():
        assert yaml.safe_load((folder / "config.yaml").read_text())["merge"]["method"] == method
    # A table for each of them, on a terminal of 80 columns.
    assert done.out.count("Run folder: ") == len(MERGES)
    assert max(len(line) for line in done.out.splitlines() if "Run folder" not in line) <= 80
    assert "neutral ones" in done.out
    assert list((tmp_path / "here").iterdir()) == []
    shown = command("report", [f"paths.output_dir={tmp_path}/outputs"])
    assert (shown.code, shown.err) == (0, "")
    assert all(method in shown.out for method in MERGES)


def test_a_second_run_is_skipped_and_force_runs_it_again(command: Command, small: list[str], tmp_path: Path):
    arguments = [*small, "eval=per_task", "merge=ties"]
    assert command("merge", arguments).code == 0
    metrics = runs_in(tmp_path)["ties"] / "metrics.json"
    written = metrics.stat().st_mtime_ns
    skipped = command("merge", arguments)
    assert "ties is finished already" in skipped.out
    assert "merged" in skipped.out
    assert metrics.stat().st_mtime_ns == written
    assert command("merge", [*arguments, "force=true"]).code == 0
    assert metrics.stat().st_mtime_ns > written


def test_a_csv_logger_gets_the_numbers(command: Command, small: list[str], tmp_path: Path):
    arguments = [*small, "logger=csv", "merge=zero_shot"]
    assert command("merge", arguments).code == 0
    (table,) = (tmp_path / "outputs" / "csv").glob("mini_clip-zero_shot-*/*/metrics.csv")
    assert "average/accuracy" in table.read_text()
    assert list((tmp_path / "here").iterdir()) == []


def test_a_report_of_nothing_says_so(command: Command, tmp_path: Path):
    done = command("report", [f"paths.output_dir={tmp_path}/outputs"])
    assert (done.code, done.err) == (0, "")
    assert "no finished runs below" in done.out


def damage(tiny: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], dict]) -> str:
    """Copy the adapters, change the tensors of `letters`, and return the override that names the copy."""
    copy = tmp_path / "damaged"
    shutil.copytree(tiny / "adapters", copy)
    file = copy / "letters" / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    return f"adapters={copy}/{{task}}"


def with_nan(tensors: dict) -> dict:
    key = next(key for key in tensors if "lora_A" in key)
    tensors[key] = torch.full_like(tensors[key], float("nan"))
    return tensors


def wider(tensors: dict) -> dict:
    return {
        key: torch.cat([t, t], dim=1 if "lora_A" in key else 0).contiguous() for key, t in tensors.items()
    }


def elsewhere(tensors: dict) -> dict:
    return {key.replace("self_attn", "attention"): tensor for key, tensor in tensors.items()}


def zeroed(tensors: dict) -> dict:
    return {key: t * 0 if "lora_B" in key else t for key, t in tensors.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_nan, ["letters", "NaN"]),
        (wider, ["letters", "(32, 32)", "(16, 16)"]),
        (elsewhere, ["share no module"]),
        (zeroed, ["letters", "lora_B", "zero"]),
    ],
)
def test_bad_adapters_are_one_message_before_anything_runs(
    command: Command, small: list[str], tiny: Path, tmp_path: Path, change: Callable, words: list[str]
):
    override = damage(tiny, tmp_path, change)
    failed(command("merge", [*small, override]), words)
    assert runs_in(tmp_path) == {}


def test_a_truncated_file_is_named(command: Command, small: list[str], tiny: Path, tmp_path: Path):
    override = damage(tiny, tmp_path, lambda tensors: tensors)
    file = tmp_path / "damaged" / "letters" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    failed(command("merge", [*small, override]), ["letters", "adapter_model.safetensors"])


def test_keys_that_fit_no_module_of_the_model_are_shown_in_both_styles(
    command: Command, small: list[str], tiny: Path, tmp_path: Path
):
    override = damage(tiny, tmp_path, elsewhere)
    for task in TASKS:
        file = tmp_path / "damaged" / task / "adapter_model.safetensors"
        if task != "letters":
            save_file(elsewhere(load_file(file)), file)
    words = ["encoder.layers.0.attention.k_proj", "encoder.layers.0.self_attn.k_proj"]
    failed(command("merge", [*small, override]), words)


def failed(done: Finished, words: list[str]) -> None:
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("error: ") == 1
    assert "Traceback" not in done.err + done.out
    for word in words:
        assert word in done.err, done.err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("merge=knot_ties", ["unknown merge 'knot_ties'", "did you mean 'knots_ties'", "core_tsv"]),
        ("model=mini_clap", ["unknown model 'mini_clap'; did you mean 'mini_clip'"]),
        ("suite=mini_vision", ["unknown suite 'mini_vision'; did you mean 'mini_vision8'"]),
        ("merge.scal=1", ["unknown key of 'merge' 'scal'; did you mean 'scale'", "+merge.scal="]),
        ("merg=ties", ["unknown key 'merg'; did you mean 'merge'"]),
        ("merge.scale=[1", ["cannot read the override 'merge.scale=[1'"]),
        ("ties", ["cannot read the override 'ties'", "key=value"]),
        ("merge.scale=${nothing}", ["merge.scale"]),
        ("merge.density=2", ["density=2.0", "0 < density <= 1"]),
        ("merge.drop=1", ["drop=1.0", "0 <= drop < 1"]),
        ("merge.scale=huge", ["merge.scale='huge'"]),
        ("+merge.pruning_rank=0.2", ["pruning_rank", "ties"]),
        ("merge.rule=nowhere.py:mine", ["nowhere.py", "no such file"]),
        ("adapters=/nowhere/{task}", ["/nowhere/digits"]),
        ("model.base=/nowhere", ["/nowhere"]),
        ("trainer.devices=none", ["trainer"]),
        ("suite.tasks.digits.sizes.test=999999", ["digits"]),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    command: Command, small: list[str], tmp_path: Path, override: str, words: list[str]
):
    failed(command("merge", [*small, override]), words)
    assert runs_in(tmp_path) == {}
    assert list((tmp_path / "here").iterdir()) == []


def test_an_option_of_another_rule_is_refused(command: Command, small: list[str]):
    failed(command("merge", [*small, "merge=task_arithmetic", "merge.density=0.5"]), ["density", "sum"])


def test_a_mistake_in_one_job_of_a_sweep_leaves_the_others(
    command: Command, small: list[str], tmp_path: Path
):
    done = command("merge", ["-m", "merge=zero_shot", "split=test,training", *small])
    failed(done, ["unknown split 'training'"])
    assert sorted(runs_in(tmp_path)) == ["zero_shot"]


def test_help_lists_groups_choices_and_examples(command: Command):
    done = command("merge", ["--help"])
    assert (done.code, done.err) == (0, "")
    assert "knots_ties (default)" in done.out
    assert all(name in done.out for name in (*MERGES, "mini_clip", "per_task", "wandb", "batch_size"))
    assert done.out.count("uv run experiments/merge.py") == 5
    assert "_neutral" not in done.out


def test_a_bug_keeps_its_traceback(command: Command, small: list[str], monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("knots.pipelines.run_merge", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        command("merge", small)


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (SIGTERMException, 143)])
def test_a_run_that_is_stopped_says_so_and_keeps_nothing(
    command: Command, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type, code: int
):
    def stopped(*_: object) -> None:
        raise stop

    monkeypatch.setattr("knots.evaluation.module.SuiteEvaluation.test_step", stopped)
    # Lightning ignores further interrupts from then on.
    before = signal.getsignal(signal.SIGINT)
    done = command("merge", [*small, "merge=zero_shot"])
    signal.signal(signal.SIGINT, before)
    assert done.code == code
    assert done.err == "stopped; the same command goes on after the last task that was done\n"
    assert list((tmp_path / "outputs" / "merge").iterdir()) == []


SHELL = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


def test_a_run_that_is_killed_leaves_nothing_that_looks_finished_and_runs_the_next_time(
    small: list[str], tmp_path: Path
):
    """As a user types it: another folder, W&B without a key, SIGKILL in the middle."""
    (tmp_path / "here").mkdir()
    arguments = [sys.executable, str(SCRIPT), *small, "eval=per_task", "logger=wandb", "merge=finetuned"]
    root = tmp_path / "outputs" / "merge"
    with subprocess.Popen(arguments, cwd=tmp_path / "here", env=SHELL, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 240
        while not list(root.glob(".*.partial-*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert len(list(root.iterdir())) == 1
    assert runs_in(tmp_path) == {}
    done = subprocess.run(
        arguments, cwd=tmp_path / "here", env=SHELL, capture_output=True, text=True, timeout=240, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "fine-tuned" in done.stdout
    assert "wandb" not in done.stdout
    assert [path.name for path in root.iterdir()] == [runs_in(tmp_path)["finetuned"].name]
    assert list((tmp_path / "here").iterdir()) == []
    assert len(list((tmp_path / "outputs" / "wandb").glob("offline-run-*"))) == 1
