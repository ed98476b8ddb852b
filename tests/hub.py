"""A Hugging Face hub on loopback: it serves repositories to the real clients, and fails as it is told to.

    hub.models["me/digits"] = {"config.json": b"{}", "model.safetensors": path}
    hub.datasets["me/signs"] = {"README.md": b"...", "data/test-00000-of-00001.parquet": path}
    hub.models["me/digits@v1"] = {...}      # another revision of it
    hub.faults["me/digits"] = "rate_limit"  # or ("drops", 2): twice, then no more
    hub.token, hub.gated = "secret", {"me/digits"}
    hub.stop()                              # cuts the network

The fixture `hub` points the clients in this process at it, with caches in the test's own folder; a subprocess
gets there with `env=hub.environment(folder)`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from knots.errors import KnotsError
from tests.hub_server import Content, Files, Server, commit_of

CLIENT_VARIABLES = ("HF_", "HUGGING", "TRANSFORMERS_", "DATASETS_")


class Hub:
    """A hub that serves what its tables hold at the time of a request.

    Attributes:
        models: id, or id@revision -> files by their path in it; a `Path` is read from disk in pieces.
        datasets: the same for data sets.
        faults: id -> one of `hub_server.FAULTS`, or a pair of it and the number of times it happens.
        gated: ids that need `token`.
        token: the only token that is accepted; without one, any is.
        requests: what was asked for, as "GET /api/models/me/digits".
        downloads: the files that were sent, as "me/digits/config.json".
    """

    def __init__(self) -> None:
        self.models: dict[str, Files] = {}
        self.datasets: dict[str, Files] = {}
        self.faults: dict[str, str | tuple[str, int]] = {}
        self.gated: set[str] = set()
        self.token: str | None = None
        self.requests: list[str] = []
        self.downloads: list[str] = []
        self.running = True
        self._lock = threading.Lock()
        self._server = Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        """Cut the network: from now on connections are refused."""
        if self.running:
            self.running = False
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def stocked(self, other: Hub) -> Hub:
        """This hub, with the repositories of another one as well."""
        self.models |= other.models
        self.datasets |= other.datasets
        return self

    def commit(self, repo: str, kind: str = "model") -> str:
        """The commit that the hub names for an id, or an id@revision: another one for other files."""
        table = self.models if kind == "model" else self.datasets
        return commit_of(table[repo])

    def environment(self, folder: Path) -> dict[str, str]:
        """Environment variables for a subprocess that asks this hub, with its caches below `folder`."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith(CLIENT_VARIABLES)}
        return {
            **plain,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(folder / "huggingface"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def take_fault(self, repo: str, among: tuple[str, ...]) -> str | None:
        """The fault that strikes now, if it is among these; one with a number counts down."""
        with self._lock:
            fault = self.faults.get(repo)
            name, left = fault if isinstance(fault, tuple) else (fault, None)
            if name not in among or left == 0:
                return None
            if left is not None:
                self.faults[repo] = (name, left - 1)
            return name

    def revisions(self, kind: str, repo: str) -> dict[str, Files]:
        """The files of a repository by all names of a revision: branch, tag, commit; empty if unknown."""
        table = self.models if kind == "models" else self.datasets
        found = {}
        for name, files in list(table.items()):
            owner, _, revision = name.partition("@")
            if owner == repo:
                found |= {revision or "main": files, commit_of(files): files}
        return found


def files_of(folder: Path) -> dict[str, Content]:
    """A repository with the files of a folder."""
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def message_of(ask: Callable[[], object]) -> str:
    """The message of the mistake that asking ends with, which is one line."""
    with pytest.raises(KnotsError) as caught:
        ask()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the clients in this process ask; their caches are empty, and they retry without a wait."""
    hub = Hub()
    _point_clients(hub.url, tmp_path / "huggingface", monkeypatch)
    yield hub
    hub.stop()
    _forget_connections()


def _point_clients(url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config
    import huggingface_hub.constants
    import huggingface_hub.file_download

    _forget_connections()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    for name, value in {
        "HF_ENDPOINT": url,
        "HUB_DATASETS_URL": url + "/datasets/{repo_id}/resolve/{revision}/{path}",
        "HF_HUB_OFFLINE": False,
        "HF_DATASETS_OFFLINE": False,
        "HF_CACHE_HOME": str(home),
        "HF_DATASETS_CACHE": home / "datasets",
        "DOWNLOADED_DATASETS_PATH": home / "datasets" / "downloads",
        "EXTRACTED_DATASETS_PATH": home / "datasets" / "downloads" / "extracted",
        "HF_MODULES_CACHE": str(home / "modules"),
    }.items():
        monkeypatch.setattr(datasets.config, name, value)
    impatient = SimpleNamespace(**{**vars(time), "sleep": lambda _: None})
    monkeypatch.setattr(huggingface_hub.file_download, "time", impatient)
    monkeypatch.setattr(huggingface_hub.utils._http, "time", impatient)


def _forget_connections() -> None:
    """The clients keep connections and listings for the process's life: drop them."""
    import huggingface_hub

    huggingface_hub.close_session()
    huggingface_hub.HfFileSystem.clear_instance_cache()
