"""Two processes make the steps of one."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from knots.finetuning import finetune
from knots.models.clip import ClipSpec, load_clip
from knots.suites.data import ImageArrays
from tests.finetuning.conftest import ORIGIN, PLAN, TRAINER
from tests.miniatures import tiny_arrays, tiny_suite

REPOSITORY = Path(__file__).resolve().parents[2]
# Dropout draws in each process; without it two processes differ from one by rounding only.
EXACT = replace(PLAN, dropout=0.0, dtype="float32")
ITEMS = {"train": 40, "validation": 13}


def teach(folder: str, place: str, processes: int) -> dict[str, float]:
    """Train one task; also run as a script by two processes."""
    splits = {
        split: ImageArrays(*tiny_arrays(size, 3, seed)) for seed, (split, size) in enumerate(ITEMS.items())
    }
    trainer = {**TRAINER, "devices": processes, "strategy": "ddp" if processes > 1 else "auto"}
    clip = load_clip(ClipSpec("tiny", folder))
    return finetune(clip, tiny_suite().tasks[0], splits, EXACT, Path(place), trainer, origin=ORIGIN)


@pytest.mark.slow
def test_two_processes_end_where_one_does(folder: Path, tmp_path: Path):
    command = [sys.executable, "-m", "tests.finetuning.test_ddp", str(folder), str(tmp_path / "two"), "2"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    found = teach(str(folder), str(tmp_path / "one"), 1)
    assert f"RESULT {found['zero_shot']:.6f}" in run.stdout
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert all(
        (two[name] - weight).abs().max() < 1e-4 * weight.abs().max() + 1e-6 for name, weight in one.items()
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


if __name__ == "__main__":
    print(f"RESULT {teach(sys.argv[1], sys.argv[2], int(sys.argv[3]))['zero_shot']:.6f}")  # noqa: T201
