"""Fixtures of the model families' tests."""

from pathlib import Path

import pytest

from knots.models.clip import Clip, ClipSpec, load_clip
from tests.miniatures import tiny_clip


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP on disk."""
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def clip(clip_folder: Path) -> Clip:
    """A tiny random CLIP; tests leave its weights as they were."""
    return load_clip(ClipSpec("tiny", str(clip_folder)))
