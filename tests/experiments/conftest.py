"""The real entry points over the tiny CLIP and small splits of the miniature suite."""

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.miniatures import tiny_adapter, tiny_clip

TASKS = ("digits", "street_numbers", "letters", "textures", "signs", "land_cover", "scenes", "vehicles")
ITEMS = 24


class Finished(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, `adapters/<task>`, `multitask` and a data cache that all tests share."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_clip(folder / "base")
    for seed, task in enumerate(TASKS):
        tiny_adapter(folder / "adapters" / task, seed=seed, rank=2 + seed % 3)
    tiny_adapter(folder / "multitask", seed=len(TASKS), rank=4)
    return folder


@pytest.fixture
def small(tiny: Path, tmp_path: Path) -> list[str]:
    """Overrides that make the main job tiny and keep it within `tmp_path`."""
    return [
        f"model.base={tiny}/base",
        f"adapters={tiny}/adapters/{{task}}",
        f"model.multitask={tiny}/multitask",
        f"paths.output_dir={tmp_path}/outputs",
        f"paths.cache_dir={tiny}/cache",
        "logger=none",
        "trainer=cpu",
        *(f"suite.tasks.{task}.sizes.test={ITEMS}" for task in TASKS),
        *(f"suite.tasks.{task}.sizes.{split}={ITEMS}" for task in TASKS for split in ("train", "validation")),
    ]


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Finished]:
    """Runs an entry point as from a shell: arguments in, exit code and both streams out."""
    # The entry point sets it; this puts it back.
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(script: str, arguments: Sequence[str]) -> Finished:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
        code = 0
        try:
            importlib.import_module(f"experiments.{script}").main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Finished(code, *capsys.readouterr())

    return run
