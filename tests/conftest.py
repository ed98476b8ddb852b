"""Fixtures of all tests."""

import os
from pathlib import Path

# The models here are tiny. With a thread a core, each process of a test that starts several would wait for
# threads that the others keep from running. OpenMP reads this when torch is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from tests.hub import hub as hub

REPOSITORY = Path(__file__).resolve().parents[1]

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded source of random numbers of the test's own."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the repository; the test is skipped where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip(f"reference data not found beside the repository ({folder})")
    return folder
