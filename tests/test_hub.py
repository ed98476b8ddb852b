"""Every way in which the hub can fail, with the real clients against a hub on loopback."""

import ast
import errno
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import huggingface_hub
import pandas as pd
import pytest
from peft import PeftConfig
from transformers import CLIPModel

from knots import hub as client
from knots.errors import KnotsError
from tests.hub import Hub, files_of, message_of
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
    "gated": r"'{}' is gated: accept its terms at http\S+ and log in",
    "private": r"'{}'.* no such repository on the hub .*hf auth login",
    "missing": r"'{}'.* no such repository on the hub .*check the spelling",
    "bad_token": r"the hub \(http.*\) refuses the token .*'{}'.* set HF_TOKEN",
    "forbidden": r"the hub .* forbids access to '{}': .* a token that may read it",
    "disabled": r"'{}' has been disabled; use another copy",
    "rate_limit": r"'{}'.* HTTP 429, too many requests; wait and try again",
    "server_error": r"'{}'.* HTTP 500, a fault of the hub; wait and try again",
    "drops": r"'{}'.* failed: .*; try again, files that are complete are kept",
    "truncates": r"'{}'.* failed: .*; try again, files that are complete are kept",
}


def test_a_message_is_expected_of_every_fault() -> None:
    assert set(MESSAGES) == set(FAULTS) - {"stalls"}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("fault", MESSAGES)
def test_faults(stocked: Hub, fault: str, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, ask = READERS[reader]
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    stocked.faults[repo] = fault
    assert re.search(MESSAGES[fault].format(repo), message := message_of(ask)), message
    del stocked.faults[repo]
    assert ask() is not None


def test_snapshot_holds_what_was_named(stocked: Hub) -> None:
    stocked.models["me/clip"] = {
        **stocked.models["me/clip"],
        "pytorch_model.bin": b"x",
        "logs/a/b.txt": b"log",
    }
    folder = client.snapshot("me/clip", ["config.json", "absent.json", "logs/*"], one_of=WEIGHTS)
    assert client.commit(folder) == folder.name == stocked.commit("me/clip")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {"config.json", "logs/a/b.txt", "model.safetensors"}
    assert sorted(stocked.downloads) == sorted(f"me/clip/{name}" for name in found)
    assert client.snapshot("me/clip", ["config.json"], one_of=WEIGHTS) == folder
    assert len(stocked.downloads) == len(found)
    assert client.snapshot("me/clip", ["absent.json"]) == folder


def test_pickle_only_without_safetensors(hub: Hub) -> None:
    hub.models["me/old"] = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    folder = client.snapshot("me/old", [], one_of=WEIGHTS)
    assert [path.name for path in folder.iterdir()] == ["pytorch_model.bin"]
    hub.models["me/none"] = {"config.json": b"{}"}
    message = message_of(lambda: client.snapshot("me/none", ["config.json"], one_of=WEIGHTS))
    assert "'me/none' has neither model.safetensors nor pytorch_model.bin; check" in message
    assert "'me/none' has not *.onnx;" in message_of(
        lambda: client.snapshot("me/none", [], one_of=["*.onnx"])
    )
    assert client.snapshot("me/none", ["*.onnx"]).is_dir()


def test_revisions(hub: Hub) -> None:
    hub.models |= {"me/clip": {"a": b"new"}, "me/clip@v1": {"a": b"old"}}
    hub.datasets["me/sick@refs/convert/parquet"] = {"default/test/0000.parquet": b"x"}
    first, last = (client.snapshot("me/clip", ["a"], revision=revision) for revision in ("v1", None))
    assert [(folder / "a").read_bytes() for folder in (first, last)] == [b"old", b"new"]
    assert client.snapshot("me/clip", ["a"], revision=client.commit(first)) == first
    branch = client.snapshot("me/sick", ["*"], kind="dataset", revision="refs/convert/parquet")
    assert client.commit(branch) == hub.commit("me/sick@refs/convert/parquet", "dataset")
    assert "'me/clip' has no revision 'v2'" in message_of(
        lambda: client.snapshot("me/clip", [], revision="v2")
    )


def test_gated_repository_opens_with_the_right_token(stocked: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    stocked.token, stocked.gated = "hf_right", {"me/clip", "me/signs"}
    for ask in (clip_from_snapshot, signs_by_id):
        monkeypatch.delenv("HF_TOKEN", raising=False)
        assert "is gated: accept its terms" in message_of(ask)
        monkeypatch.setenv("HF_TOKEN", "hf_expired")
        assert "refuses the token that was sent" in message_of(ask)
        monkeypatch.setenv("HF_TOKEN", "hf_right")
        assert ask() is not None


@pytest.mark.parametrize("reader", READERS)
def test_a_dropped_connection_is_sat_out(stocked: Hub, reader: str) -> None:
    repo, ask = READERS[reader]
    stocked.faults[repo] = ("drops", 2)
    assert ask() is not None
    assert stocked.faults[repo] == ("drops", 0)


def test_second_attempt_downloads_only_what_is_missing(stocked: Hub) -> None:
    client.snapshot("me/clip", ["config.json"])
    stocked.faults["me/clip"] = "drops"
    assert "try again" in message_of(clip_from_snapshot)
    stocked.faults.clear()
    stocked.downloads.clear()
    assert clip_from_snapshot() is not None
    assert stocked.downloads == ["me/clip/model.safetensors"]


SNAPSHOT = """
import huggingface_hub
huggingface_hub.snapshot_download("me/clip", allow_patterns=["config.json", "model.safetensors"])
"""


def test_killed_download_does_not_pass_as_complete(
    stocked: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.snapshot("me/clip", ["config.json"])
    stocked.faults["me/clip"] = "stalls"
    child = subprocess.Popen([sys.executable, "-c", SNAPSHOT], env=stocked.environment(tmp_path))
    deadline = time.monotonic() + 60
    while len(stocked.downloads) < 2 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    child.kill()
    child.wait()
    assert stocked.downloads[-1] == "me/clip/model.safetensors"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert re.search(
        r"local copy of 'me/clip' is incomplete \(model.safetensors is missing\).* \(HF_HUB_OFFLINE is set\)",
        message_of(clip_from_snapshot),
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    stocked.faults.clear()
    assert clip_from_snapshot() is not None


def test_unlisted_partial_copy_is_named(stocked: Hub) -> None:
    """An older client keeps no list of the repository's files: it takes any folder for complete."""
    folder = client.snapshot("me/clip", ["config.json"])
    for listing in (folder.parents[1] / "trees").glob("*"):
        listing.unlink()
    huggingface_hub._tree_cache._IN_MEMORY_TREE_CACHE.clear()
    stocked.stop()
    assert client.snapshot("me/clip", ["config.json", "tokenizer.json"]) == folder
    assert re.search(
        r"copy of .me/clip. is incomplete .neither \S+ nor \S+ is there|nor is all of it in the local cache",
        message_of(clip_from_snapshot),
    )


def test_network_cut_after_the_download(stocked: Hub) -> None:
    wanted = [ask for _, ask in READERS.values()]
    assert all(ask() is not None for ask in wanted)
    stocked.stop()
    assert all(ask() is not None for ask in wanted)
    unreachable = (
        r"'me/\w+'.* the hub \(http\S+\) cannot be reached nor is all of it in the local cache; check the"
    )
    for kind in ("model", "dataset"):
        assert re.search(unreachable, message_of(lambda kind=kind: client.snapshot("me/x", [], kind=kind)))
    assert re.search(r"the local copy of 'me/clip' is incomplete", message_of(more_of_the_clip))
    with pytest.raises(KnotsError, match=unreachable), client.asking("me/other", kind="dataset"):
        datasets.load_dataset("me/other")
    with pytest.raises(KnotsError, match=unreachable), client.asking("me/other"):
        PeftConfig.from_pretrained("me/other")


def more_of_the_clip() -> object:
    return client.snapshot("me/clip", ["tokenizer.json"])


def test_other_errors_pass_unchanged(stocked: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (
        KeyError("ours"),
        KnotsError("a mistake"),
        OSError(errno.ENOSPC, "No space left on device"),
    ):
        with pytest.raises(type(error)) as caught, client.asking("me/clip"):
            raise error
        assert caught.value is error

    full = OSError(errno.ENOSPC, "No space left on device")

    def no_space(*args: object, **kwargs: object) -> None:
        raise full

    monkeypatch.setattr("huggingface_hub.file_download.http_get", no_space)
    for ask in (clip_from_snapshot, adapter_by_id, signs_by_id):
        with pytest.raises(OSError, match="No space left on device") as caught:
            ask()
        assert caught.value.errno == errno.ENOSPC


def test_an_earlier_error_is_not_blamed(stocked: Hub) -> None:
    stocked.faults["me/clip"] = "gated"
    try:
        clip_from_snapshot()
    except KnotsError:
        assert "no such repository" in message_of(lambda: client.snapshot("me/other", []))
        with pytest.raises(ZeroDivisionError), client.asking("me/clip"):
            1 / 0  # noqa: B018


def test_importing_the_module_is_cheap() -> None:
    source = Path(client.__file__).read_text(encoding="utf-8")
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in nodes}
    assert {str(name).partition(".")[0] for name in names} <= sys.stdlib_module_names | {"knots"}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("owner/name", True),
        ("owner/name.v2-x_y", True),
        ("name", False),
        ("a/b/c", False),
        ("owner/", False),
        ("./name", False),
        ("../name", False),
        ("/owner/name", False),
        ("~/name", False),
        ("C:\\name/x", False),
        ("", False),
    ],
)
def test_what_looks_like_an_id(text: str, holds: bool):
    assert client.looks_like_id(text) is holds
