"""Every way in which the hub can fail, with the real clients against a hub on loopback."""

import ast
import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import huggingface_hub
import pandas as pd
import pytest
from huggingface_hub import HfApi, HfFileSystem
from peft import PeftConfig
from transformers import CLIPModel

from knots import hub as client
from knots.errors import KnotsError
from tests.hub import Hub, files_of
from tests.hub_server import FAULTS, Files
from tests.miniatures import tiny_adapter, tiny_clip

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
README = b"""---
configs:
- config_name: plain
  data_files: [{split: train, path: plain/train-*}, {split: test, path: plain/test-*}]
- config_name: noisy
  data_files: [{split: test, path: noisy/test-*}]
---
"""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    """A CLIP, an adapter and a data set of two configurations, by these names."""
    root = tmp_path_factory.mktemp("repositories")
    signs: dict[str, bytes | Path] = {"README.md": README}
    for name in ("plain/train", "plain/test", "noisy/test"):
        path = root / f"{name}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"text": [name] * 3, "label": [0, 1, 2]}).to_parquet(path)
        signs[path.relative_to(root).as_posix()] = path
    clip, adapter = files_of(tiny_clip(root / "clip")), files_of(tiny_adapter(root / "adapter", seed=0))
    return {"clip": clip, "adapter": adapter, "signs": signs}


@pytest.fixture
def stocked(hub: Hub, repositories: dict[str, Files]) -> Hub:
    """The hub with the three repositories as me/clip, me/adapter and me/signs."""
    hub.models |= {"me/clip": repositories["clip"], "me/adapter": repositories["adapter"]}
    hub.datasets["me/signs"] = repositories["signs"]
    return hub


def clip_from_snapshot() -> object:
    folder = client.snapshot("me/clip", ["config.json"], one_of=WEIGHTS)
    return CLIPModel.from_pretrained(folder)


def clip_by_id() -> object:
    with client.asking("me/clip"):
        return CLIPModel.from_pretrained("me/clip")


def adapter_by_id() -> object:
    with client.asking("me/adapter"):
        return PeftConfig.from_pretrained("me/adapter")


def signs_by_id() -> object:
    with client.asking("me/signs", kind="dataset"):
        return datasets.load_dataset("me/signs", "noisy", split="test")


READERS: dict[str, tuple[str, Callable[[], object]]] = {
    "snapshot": ("me/clip", clip_from_snapshot),
    "transformers": ("me/clip", clip_by_id),
    "peft": ("me/adapter", adapter_by_id),
    "datasets": ("me/signs", signs_by_id),
}

MESSAGES = {
    "gated": r"'{}' is gated: accept its terms at http\S*/{} and log in",
    "private": r"'{}'.* no such repository on the hub .*hf auth login",
    "missing": r"'{}'.* no such repository on the hub .*check the spelling",
    "bad_token": r"the hub \(http.*\) refuses the token .*'{}'.* set HF_TOKEN",
    "forbidden": r"the hub .* forbids access to '{}': .* a token that may read it",
    "disabled": r"'{}' has been disabled; use another copy",
    "rate_limit": r"'{}'.* HTTP 429, too many requests; wait and try again",
    "server_error": r"'{}'.* HTTP 500, the hub has a fault; wait and try again",
    "drops": r"'{}'.* failed: .*; try again, files that are complete are kept",
    "truncates": r"'{}'.* failed: .*; try again, files that are complete are kept",
}


def message_of(ask: Callable[[], object]) -> str:
    """The message of the mistake that asking ends with, which is one line."""
    with pytest.raises(KnotsError) as caught:
        ask()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_message_is_expected_of_every_fault() -> None:
    assert set(MESSAGES) == set(FAULTS) - {"stalls"}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("fault", MESSAGES)
def test_faults(stocked: Hub, fault: str, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, ask = READERS[reader]
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    stocked.faults[repo] = fault
    message = message_of(ask)
    assert pytest.approx(0) == 0
    pattern = MESSAGES[fault].format(repo, f"(datasets/)?{repo}" if fault == "gated" else repo)
    import re

    assert re.search(pattern, message), message
    del stocked.faults[repo]
    assert ask() is not None
