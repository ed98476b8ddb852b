"""What `benchmarks/search.py` counts and writes."""

import json
from pathlib import Path

import pytest

from benchmarks import search
from tests.benchmarks.conftest import Refused


@pytest.fixture
def words(small: list[str], tiny: Path, tmp_path: Path) -> list[str]:
    """Options that keep the benchmark tiny."""
    runs = " ".join(word for word in small if not word.startswith(("paths.", "logger=", "trainer=")))
    places = [f"cache_dir={tiny}/cache", f"out={tmp_path}/search.json", "threads=1", "alone=2", "points=2"]
    return [*places, "items=16", f"overrides={runs} tasks=[digits,letters] +merge.dare_after=trim"]


def test_every_combination_is_a_candidate(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture):
    search.main(words)
    content = json.loads((tmp_path / "search.json").read_text())
    found = content["measured"]
    assert found["shared"]["searched"] == ["scale", "density", "drop"]
    assert found["shared"]["candidates"] == 8
    assert found["without_reuse"]["candidates"] == 2
    for way in ("shared", "without_reuse"):
        assert found[way]["candidates_per_second"] == pytest.approx(
            found[way]["candidates"] / found[way]["seconds"]
        )
        assert 0 < found[way]["merging_share"] < 1
    assert {"commit", "machine", "versions", "options"} <= content.keys()
    assert "scale x density x drop: 8 candidates" in capsys.readouterr().out


@pytest.mark.parametrize(("word", "message"), [
    ("point=3", "'point=3' is no option; allowed: model="),
    ("points=0", "search.values.scale=[]"),
    ("merge=zero_shot", "zero_shot merges nothing"),
    ("device=tpu", "device=tpu; allowed: cpu, cuda"),
])  # fmt: skip
def test_a_mistake_is_one_line(word: str, message: str, refused: Refused):
    assert message in refused(search.main, word)
