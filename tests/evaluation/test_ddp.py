"""Two processes give exactly the numbers of one."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.evaluation.score_everything import SIZES, score_everything
from tests.miniatures import tiny_clip

REPOSITORY = Path(__file__).resolve().parents[2]

# Lightning's pytree code meets a class that PyTorch 2.15 is about to drop.


def test_two_processes_give_the_numbers_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("knots.suites.data.SOURCES", {})  # put back afterwards
    folder = tiny_clip(tmp_path / "clip")
    command = [sys.executable, "-m", "tests.evaluation.score_everything", str(folder), str(tmp_path), "2"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stderr
    expected = score_everything(folder, tmp_path / "cache", processes=1)
    assert len(expected) == 5 * len(SIZES)
    for rank in (0, 1):
        results = pickle.loads((tmp_path / f"{rank}.pickle").read_bytes())
        for ours, alone in zip(results, expected, strict=True):
            pd.testing.assert_frame_equal(ours.predictions, alone.predictions)
            assert (ours.kind == "router") == (ours.routed is not None)
            for name in ("n", "correct", "routed"):
                np.testing.assert_array_equal(getattr(ours, name), getattr(alone, name))
            for name in ("classes", "hits", "hits_dedup", "errors", "leaks"):
                np.testing.assert_array_equal(getattr(ours.joint, name), getattr(alone.joint, name))
