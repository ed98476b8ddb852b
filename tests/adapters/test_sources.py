import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import huggingface_hub
import pytest
import torch

from knots.adapters import load_adapter
from knots.assets import asset_path
from knots.errors import KnotsError
from tests.adapters.conftest import pair, write_adapter

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ERRORS = {"gated": (403, "GatedRepo"), "private": (401, "RepoNotFound"), "broken": (500, "")}


@dataclass
class Hub:
    """A hub on loopback: repositories by id, each a table of file name -> bytes; ERRORS names faulty ones."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    downloads: list[str] = field(default_factory=list)
    cut: bool = False


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[: len(body) // 2] if hub.cut and "resolve" in self.path else body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = unquote(urlparse(self.path).path).strip("/").split("/")
            api = parts[:2] == ["api", "models"]
            parts = parts[2:] if api else parts
            repo, rest = "/".join(parts[:2]), parts[2:]
            if parts[1] in ERRORS:
                status, code = ERRORS[parts[1]]
                self.answer(status, X_Error_Code=code)
            elif repo not in hub.repositories:
                self.answer(404, X_Error_Code="RepoNotFound")
            elif len(rest) > 1 and rest[1] not in ("main", COMMIT):
                self.answer(404, X_Error_Code="RevisionNotFound")
            elif api:
                self.answer(200, json.dumps(listing(hub.repositories[repo], repo, rest)).encode())
            else:
                self.give(hub.repositories[repo], rest[-1])

        def give(self, files: dict[str, bytes], name: str) -> None:
            if name not in files:
                self.answer(404, X_Error_Code="EntryNotFound")
                return
            if self.command == "GET":
                hub.downloads.append(name)
            self.answer(200, files[name], X_Repo_Commit=COMMIT, ETag=f'"{name}"', Accept_Ranges="bytes")

    return Handler


def listing(files: dict[str, bytes], repo: str, rest: list[str]) -> object:
    if rest[:1] == ["tree"]:
        return [{"type": "file", "path": name, "size": len(files[name]), "oid": name} for name in files]
    siblings = [{"rfilename": name} for name in files]
    return {"id": repo, "sha": COMMIT, "siblings": siblings, "private": False, "gated": False, "tags": []}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    yield hub
    server.shutdown()
    server.server_close()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path, generator: torch.Generator) -> Path:
    return write_adapter(tmp_path / "local", pair("q", generator))


def test_adapter_from_the_hub(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["me/digits"] = files_of(folder) | {
        "optimizer.pt": b"large",
        "adapter_model.bin": b"unused",
    }
    adapter = load_adapter("me/digits")
    assert (adapter.name, adapter.source) == ("digits", "me/digits")
    assert adapter.fingerprint == load_adapter(folder).fingerprint
    assert sorted(hub.downloads) == ["adapter_config.json", "adapter_model.safetensors"]
    assert load_adapter("me/digits", revision=COMMIT).fingerprint == adapter.fingerprint
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert load_adapter("me/digits").fingerprint == adapter.fingerprint
    assert len(hub.downloads) == 2


def test_pickle_from_the_hub(hub: Hub, tmp_path: Path, generator: torch.Generator) -> None:
    folder = write_adapter(tmp_path / "bin", pair("q", generator), weights="adapter_model.bin")
    hub.repositories["me/digits"] = files_of(folder)
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
    hub.repositories |= {"me/digits": files_of(folder), "me/base": {"heads.safetensors": b"x"}}
    with pytest.raises(KnotsError, match=message) as caught:
        load_adapter(repo, revision=revision)
    assert "\n" not in str(caught.value)


def test_download_that_breaks_off(hub: Hub, folder: Path) -> None:
    hub.repositories["me/digits"] = files_of(folder)
    hub.cut = True
    with pytest.raises(KnotsError, match=r"'me/digits'.*(failed|cannot be reached)") as caught:
        load_adapter("me/digits")
    assert "\n" not in str(caught.value)
    hub.cut = False
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
