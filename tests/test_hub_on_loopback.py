"""The hub that the tests share answers the real clients as the real one does."""

import os
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi, HfFileSystem

from knots import hub as client
from tests.hub import Hub


def test_the_hub_answers_as_the_real_one(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(range(256)) * 20_000)
    hub.datasets["me/x"] = {"a/b/large": tmp_path / "large", "a/c": b"text", "d": b""}
    api, system = HfApi(), HfFileSystem()
    tree = [entry.path for entry in api.list_repo_tree("me/x", repo_type="dataset")]
    assert tree == ["a", "d"]
    tree = [entry.path for entry in api.list_repo_tree("me/x", "a", recursive=True, repo_type="dataset")]
    assert tree == ["a/b", "a/b/large", "a/c"]
    with pytest.raises(huggingface_hub.errors.EntryNotFoundError):
        list(api.list_repo_tree("me/x", "absent", repo_type="dataset"))
    found = api.get_paths_info("me/x", ["a/c", "a/b", "absent"], repo_type="dataset")
    assert [(entry.path, getattr(entry, "size", None)) for entry in found] == [("a/c", 4), ("a/b", None)]
    with system.open("datasets/me/x/a/b/large", "rb", block_size=1000) as file:
        file.seek(256 * 10_000 + 7)
        assert file.read(3) == bytes([7, 8, 9])
    folder = client.snapshot("me/x", ["*"], kind="dataset")
    assert (folder / "a/b/large").read_bytes() == (tmp_path / "large").read_bytes()
    assert (folder / "d").read_bytes() == b""


def test_a_dropped_download_goes_on_where_it_broke_off(hub: Hub, tmp_path: Path) -> None:
    content = os.urandom(3 * huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE)
    (tmp_path / "large").write_bytes(content)
    hub.models["me/x"] = {"large": tmp_path / "large"}
    hub.faults["me/x"] = ("drops", 2)
    folder = client.snapshot("me/x", ["large"])
    assert (folder / "large").read_bytes() == content
    assert hub.downloads == ["me/x/large"] * 3
