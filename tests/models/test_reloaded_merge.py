"""A saved merge means the same to plain PEFT as to us."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel

import knots
from knots.models.attach import fold
from knots.models.clip import ClipSpec, load_clip
from knots.models.heads import build_heads
from tests.miniatures import tiny_adapter, tiny_clip, tiny_suite


@pytest.mark.parametrize(("method", "options"), [
    ("knots_ties", {"density": 0.3}),
    ("core_tsv", {}),
    ("ties", {"density": 0.3}),  # a dense merge
])  # fmt: skip
def test_plain_peft_gives_the_logits_of_the_folded_merge(
    method: str, options: dict[str, float], tmp_path: Path
):
    spec = ClipSpec("tiny", str(tiny_clip(tmp_path / "base")))
    folders = [tiny_adapter(tmp_path / f"rank_{rank}", seed=rank, rank=rank) for rank in (2, 5, 3)]
    adapters = [knots.load_adapter(folder) for folder in folders]
    merged = knots.merge(adapters, **knots.METHODS[method], scale=0.7, **options)
    knots.save_adapter(merged, tmp_path / "merged")

    images = torch.randint(
        0, 256, (6, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    folded, reloaded = load_clip(spec), load_clip(spec)
    heads = build_heads(folded, tiny_suite())
    with torch.inference_mode():
        base = folded(images) @ heads.joint.T
        fold(folded.tower, merged)
        expected = folded(images) @ heads.joint.T
    PeftModel.from_pretrained(reloaded.tower, tmp_path / "merged")  # puts its layers into the tower
    with torch.inference_mode():
        logits = reloaded(images) @ heads.joint.T
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert float((expected - base).abs().max()) > 0.01
