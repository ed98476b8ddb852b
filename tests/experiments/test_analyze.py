"""`experiments/analyze.py`, from the command line to the files."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from experiments import analyze
from tests.experiments.conftest import Finished
from tests.language import tiny_llama, tiny_text_adapter

Analyze = Callable[..., Finished]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Analyze:
    """Runs the entry point as from a shell, in an empty folder."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: str) -> Finished:
        where = [f"paths.output_dir={tmp_path}/outputs", "logger=none", "trainer=cpu"]
        monkeypatch.setattr(sys, "argv", ["analyze.py", *where, *arguments])
        code = 0
        try:
            analyze.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Finished(code, *capsys.readouterr())

    return run


def records(tmp_path: Path) -> list[dict]:
    return [
        json.loads(path.read_text()) for path in (tmp_path / "outputs" / "analyze").glob("*/metrics.json")
    ]


def small(tasks: Sequence[str]) -> list[str]:
    """Overrides under which only a few items are made."""
    return ["items=6", f"tasks=[{','.join(tasks)}]", *(f"suite.tasks.{t}.sizes.test=24" for t in tasks)]


def test_the_miniature_s_adapters_are_compared_and_found_again(run: Analyze, tmp_path: Path):
    arguments = [f"paths.cache_dir={tmp_path}/cache", *small(["textures", "signs", "scenes"])]
    done = run(*arguments)
    assert (done.code, done.err) == (0, "")
    (record,) = records(tmp_path)
    assert (record["record"], record["model"], record["tasks"]) == (
        "analysis",
        "mini_clip",
        ["textures", "signs", "scenes"],
    )
    assert list(record["panels"]) == ["lora", "knots"]
    assert len(record["panels"]["knots"]["per_module"]) == 16
    assert all(0 < panel["mean_off_diagonal"] < 1 for panel in record["panels"].values())
    assert "conflict, trimmed" in done.out.replace("\n", " ")
    assert "note: no full fine-tunes were given" in done.out
    again = run(*arguments)
    assert (again.code, again.err) == (0, "")
    assert "finished already" in again.out
    assert again.out.splitlines()[-1] == done.out.splitlines()[-1]
    assert list((tmp_path / "here").iterdir()) == []


def test_so_are_adapters_of_a_decoder(run: Analyze, tmp_path: Path):
    tasks = ["scenes", "facts"]
    tiny_llama(tmp_path / "base")
    for seed, task in enumerate(tasks):
        tiny_text_adapter(tmp_path / "adapters" / task, seed)
    arguments = [
        *("model=mini_llama", f"model.base={tmp_path}/base", "tokens=last"),
        *(f"adapters={tmp_path}/adapters/{{task}}", f"paths.cache_dir={tmp_path}/cache"),
    ]
    done = run(*arguments, *small(tasks))
    assert (done.code, done.err) == (0, "")
    (record,) = records(tmp_path)
    assert record["options"]["rows"] == 12
    assert "pairs of sentences" in record["figures"][0]["caption"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("full=vit_b_32_ful", ["unknown full 'vit_b_32_ful'", "vit_b_32_full"]),
        ("tokens=last", ["tokens='last' is not for vision"]),
        ("tokenss=all", ["unknown key 'tokenss'; did you mean 'tokens'"]),
        ("full.adapters=/nowhere/{task}", ["/nowhere/textures"]),
        ("adapters=/nowhere/{task}", ["/nowhere/textures"]),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    run: Analyze, tmp_path: Path, override: str, words: list[str]
):
    done = run(f"paths.cache_dir={tmp_path}/cache", *small(["textures", "signs"]), override)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("error: ") == 1
    assert all(word in done.err for word in words), done.err
    assert not list((tmp_path / "outputs").glob("analyze/*"))


def test_help_lists_groups_choices_and_examples(run: Analyze):
    done = run("--help")
    assert (done.code, done.err) == (0, "")
    assert all(word in done.out for word in ("vit_b_32_full", "estimator", "none (default)"))
    assert done.out.count("uv run experiments/analyze.py") == 5
