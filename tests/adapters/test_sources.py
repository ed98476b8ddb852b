from pathlib import Path

import huggingface_hub
import pytest
import torch

from knots.adapters import load_adapter
from knots.assets import asset_path
from knots.errors import KnotsError
from tests.adapters.conftest import pair, write_adapter
from tests.hub import Hub, files_of


@pytest.fixture
def folder(tmp_path: Path, generator: torch.Generator) -> Path:
    return write_adapter(tmp_path / "local", pair("q", generator))


def test_adapter_from_the_hub(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.models["me/digits"] = files_of(folder) | {
        "optimizer.pt": b"large",
        "adapter_model.bin": b"unused",
    }
    adapter = load_adapter("me/digits")
    assert (adapter.name, adapter.source) == ("digits", "me/digits")
    assert adapter.fingerprint == load_adapter(folder).fingerprint
    assert sorted(hub.downloads) == ["me/digits/adapter_config.json", "me/digits/adapter_model.safetensors"]
    assert load_adapter("me/digits", revision=hub.commit("me/digits")).fingerprint == adapter.fingerprint
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert load_adapter("me/digits").fingerprint == adapter.fingerprint
    assert len(hub.downloads) == 2


def test_pickle_from_the_hub(hub: Hub, tmp_path: Path, generator: torch.Generator) -> None:
    folder = write_adapter(tmp_path / "bin", pair("q", generator), weights="adapter_model.bin")
    hub.models["me/digits"] = files_of(folder)
    assert load_adapter("me/digits").fingerprint == load_adapter(folder).fingerprint


@pytest.mark.parametrize(
    ("repo", "revision", "message"),
    [
        ("me/absent", None, r"no folder 'me/absent', and no such repository on the hub"),
        ("me/private", None, r"no folder 'me/private', and no such repository .*hf auth login"),
        ("me/gated", None, r"'me/gated' is gated: accept its terms at http://127.*/me/gated"),
        ("me/broken", None, r"'me/broken'.*(failed|cannot be reached)"),
        ("me/digits", "v2", r"'me/digits' has no revision 'v2'"),
        ("me/base", None, r"'me/base' is not a PEFT adapter: adapter_config\.json is missing"),
        ("me/--x", None, r"'me/--x' is neither a folder nor a hub id"),
    ],
)
def test_hub_faults(hub: Hub, folder: Path, repo: str, revision: str | None, message: str) -> None:
    hub.models |= {"me/digits": files_of(folder), "me/base": {"heads.safetensors": b"x"}}
    hub.models |= dict.fromkeys(("me/gated", "me/private", "me/broken"), files_of(folder))
    hub.faults |= {"me/gated": "gated", "me/private": "private", "me/broken": "server_error"}
    with pytest.raises(KnotsError, match=message) as caught:
        load_adapter(repo, revision=revision)
    assert "\n" not in str(caught.value)


def test_download_that_breaks_off(hub: Hub, folder: Path) -> None:
    hub.models["me/digits"] = files_of(folder)
    hub.faults["me/digits"] = "drops"
    with pytest.raises(KnotsError, match=r"'me/digits'.*(failed|cannot be reached)") as caught:
        load_adapter("me/digits")
    assert "\n" not in str(caught.value)
    del hub.faults["me/digits"]
    assert load_adapter("me/digits").updates


def test_unreachable_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(KnotsError, match=r"the hub \(http://127\.0\.0\.1:9\) cannot be reached nor"):
        load_adapter("me/digits")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(KnotsError, match=r"HF_HUB_OFFLINE is set"):
        load_adapter("me/digits")


def test_faulty_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for absent in ("./x", "/x/y", "~/x/y", "a/b/c", "../x", "x", "a/b/", "C:\\x", Path("a/b")):
        with pytest.raises(KnotsError, match="no such folder"):
            load_adapter(absent)
    with pytest.raises(KnotsError, match="source is empty"):
        load_adapter("")
    with pytest.raises(KnotsError, match="is a file; give the folder"):
        load_adapter("local/adapter_model.safetensors")
    with pytest.raises(KnotsError, match=r"revision='main' is for adapters on the hub"):
        load_adapter("local", revision="main")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(KnotsError, match="has no weights"):
        load_adapter("local")
    (folder / "adapter_config.json").rename(folder / "config.json")
    with pytest.raises(KnotsError, match=r"adapter_config\.json is missing \(found: config\.json\)"):
        load_adapter("local")


def test_shipped_assets() -> None:
    with pytest.raises(KnotsError, match="no asset 'mini_clip/absent' is shipped"):
        load_adapter("asset:mini_clip/absent")
    with pytest.raises(KnotsError, match="outside the files shipped"):
        asset_path("../errors.py")
    assert asset_path("__init__.py").is_file()
