"""A server of W&B on loopback: it takes what the real client uploads, and refuses what it is told to.

    server.refused.add("run-id")   # the run's first request is answered with 403
    server.meeting = Barrier(2)    # a run's first request is answered when that of another run has come too
    server.runs["run-id"]          # what was said of the run: group, job type, ...
    server.files["run-id"]         # the names of its files
    server.artifacts["name"]       # file name -> content, of artifacts that were committed

The fixture `wandb_server` also points new processes at it, with a key, and with caches in the test's folder.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

KEY = "a" * 40


class WandbServer(ThreadingHTTPServer):
    """Answers the part of W&B's GraphQL that uploading a run asks for; remembers the rest as plain files."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.refused: set[str] = set()
        self.runs: dict[str, dict[str, Any]] = {}
        self.files: dict[str, set[str]] = defaultdict(set)
        self.stored: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.artifacts: dict[str, dict[str, bytes]] = {}
        self.meeting: threading.Barrier | None = None

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """What the named GraphQL operation gives; nothing for those that an upload can do without."""
        method = getattr(self, f"_{operation}", None)
        return method(variables) if method else {}

    def _UpsertBucket(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = asked["name"]
        if name not in self.runs and self.meeting:
            self.meeting.wait(timeout=60)
        known = self.runs.setdefault(name, {})
        known.update({key: value for key, value in asked.items() if value is not None})
        project = {"id": "p", "name": asked["project"], "entity": {"id": "e", "name": "me"}}
        bucket = {"id": name, "name": name, "displayName": name, "project": project, "historyLineCount": 0}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _ServerFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def _CreateRunFiles(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.files[asked["run"]] |= set(asked["files"])
        files = [{"name": name, "uploadUrl": f"{self.url}/run/{name}"} for name in asked["files"]]
        return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}

    def _CreateArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = asked["input"]["artifactCollectionName"]
        artifact = {"id": name, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def _CreateArtifactManifest(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        file = {"id": "f", "uploadUrl": f"{self.url}/manifest/{asked['artifactID']}", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def _CreateArtifactFiles(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        edges = []
        for file in asked["input"]["artifactFiles"]:
            artifact, name = file["artifactID"], file["name"]
            url = f"{self.url}/artifact/{artifact}/{name}"
            node = {"id": name, "name": name, "displayName": name, "uploadUrl": url, "uploadHeaders": []}
            edges.append({"node": {**node, "artifact": {"id": artifact}}})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = asked["artifactID"]
        self.artifacts[name] = self.stored[name]
        return {"commitArtifact": {"artifact": {"id": name, "digest": ""}}}


class Handler(BaseHTTPRequestHandler):
    """HTTP around it."""

    server: WandbServer
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        # The client closes connections that it holds open without a word.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        kind, _, rest = unquote(self.path).lstrip("/").partition("/")
        if kind == "artifact":
            artifact, _, name = rest.partition("/")
            self.server.stored[artifact][name] = self._body()
        else:
            self._body()
        self._reply({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path != "/graphql":
            self._reply({})
            return
        asked = json.loads(body)
        operation, variables = asked.get("operationName", ""), asked.get("variables") or {}
        if operation == "UpsertBucket" and variables["name"] in self.server.refused:
            self._reply({"errors": [{"message": "this run is refused"}]}, 403)
        else:
            self._reply({"data": self.server.answer(operation, variables)})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        return gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body

    def _reply(self, value: dict[str, Any], code: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def wandb_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    """A running server, with the environment that leads there."""
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb_home"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
