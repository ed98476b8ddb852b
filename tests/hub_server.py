"""What the hub on loopback answers: the part of the real one that its clients ask for."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from tests.hub import Hub

Content = bytes | Path
Files = Mapping[str, Content]

CHUNK = 1 << 20
VERBS = ("revision", "tree", "paths-info", "resolve")

REFUSALS: dict[str, tuple[int, str, str]] = {
    "private": (401, "RepoNotFound", "Invalid username or password."),
    "missing": (404, "RepoNotFound", "Repository not found"),
    "bad_token": (401, "", "Invalid credentials in Authorization header"),
    "forbidden": (403, "", "This token lacks the permission"),
    "disabled": (403, "", "Access to this resource is disabled."),
    "rate_limit": (429, "", "We had to rate limit you"),
    "server_error": (500, "", "Internal Error"),
}
"""Faults of a whole repository: HTTP status, code and message, as the hub gives them."""

GATED = (403, "GatedRepo", "Access to this repository is restricted and you are not in the authorized list.")
NOT_LOGGED_IN = (401, "GatedRepo", "Access to this repository is restricted. You must be authenticated.")
"""Of a gated repository the hub gives everything but the files."""

BODY_FAULTS = ("drops", "truncates", "stalls")
"""In the middle of a file: the connection ends; the file ends and the headers agree with it; nothing more
comes for as long as the fault stands."""

FAULTS = (*REFUSALS, "gated", *BODY_FAULTS)


def etag(content: Content) -> str:
    """What names a file's content; of one on disk only its size and age are looked at."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    stat = content.stat()
    return hashlib.sha256(f"{content} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()


def size(content: Content) -> int:
    """Of a file, in bytes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def commit_of(files: Files) -> str:
    """The commit of these files: another one for others."""
    names = "\n".join(f"{path} {etag(content)}" for path, content in sorted(files.items()))
    return hashlib.sha1(names.encode()).hexdigest()


class Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them

    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = hub

    def handle_error(self, request: object, address: object) -> None:
        """A client that went away is no fault of ours."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, address)  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    """Answers one request; a connection carries no other, so that none stays open when the hub stops."""

    timeout = 10
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        self.server.hub.requests.append(f"{self.command} {url.path}")
        if parts[0] == "api" and parts[1] not in ("models", "datasets"):
            self.refuse(404, "", "Not found")
            return
        kind, parts = (parts[0], parts[1:]) if parts[0] == "datasets" else ("models", parts)
        kind, parts = (parts[1], parts[2:]) if parts[0] == "api" else (kind, parts)
        single = len(parts) == 1 or parts[1] in VERBS
        repo, rest = "/".join(parts[: 2 - single]), parts[2 - single :]
        verb, revision, path = (rest[0], rest[1], "/".join(rest[2:])) if rest else ("revision", "main", "")
        self.answer(kind, repo, verb, revision, path)

    def answer(self, kind: str, repo: str, verb: str, revision: str, path: str) -> None:
        """Answer a request that was taken apart; `kind` is `models` or `datasets`."""
        revisions = self.server.hub.revisions(kind, repo)
        if refusal := self.refusal(repo, bool(revisions), verb):
            self.refuse(*refusal)
        elif revision not in revisions:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif verb == "revision":
            self.give_json(self.info(repo, revisions[revision]))
        elif verb == "tree":
            self.give_tree(revisions[revision], path)
        elif verb == "paths-info":
            self.give_json([entry for path in self.wanted() for entry in entries(revisions[revision], path)])
        else:
            self.give_file(repo, revisions[revision], path)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        # An answer to a request that was not read to its end would look like a broken connection.
        self.body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.do_GET()

    def wanted(self) -> list[str]:
        """The paths of a `paths-info` request, which comes as a form or as JSON."""
        if self.body.startswith("{"):
            return json.loads(self.body)["paths"]
        return parse_qs(self.body).get("paths", [])

    def refusal(self, repo: str, known: bool, verb: str) -> tuple[int, str, str] | None:
        """Status, code and message for a request that is refused."""
        hub = self.server.hub
        sent = self.headers.get("Authorization")
        if fault := hub.take_fault(repo, tuple(REFUSALS)):
            return REFUSALS["missing" if fault == "private" and sent else fault]
        if hub.token and sent and sent != f"Bearer {hub.token}":
            return REFUSALS["bad_token"]
        if not known:
            return REFUSALS["missing" if sent else "private"]
        if verb == "resolve" and hub.take_fault(repo, ("gated",)):
            return GATED
        return NOT_LOGGED_IN if verb == "resolve" and repo in hub.gated and not sent else None

    def info(self, repo: str, files: Files) -> dict[str, object]:
        hub = self.server.hub
        return {
            "id": repo,
            "sha": commit_of(files),
            "siblings": [{"rfilename": path} for path in files],
            "private": False,
            "gated": "auto" if repo in hub.gated or hub.faults.get(repo) == "gated" else False,
            "disabled": False,
            "tags": [],
            "lastModified": "2025-01-01T00:00:00.000Z",
        }

    def give_tree(self, files: Files, folder: str) -> None:
        query = parse_qs(urlsplit(self.path).query)
        recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        found = list(tree(files, folder, recursive))
        if found or not folder:
            self.give_json(found)
        else:
            self.refuse(404, "EntryNotFound", f"{folder} does not exist")

    def give_file(self, repo: str, files: Files, path: str) -> None:
        hub = self.server.hub
        commit = {"X-Repo-Commit": commit_of(files)}
        if path not in files:
            self.refuse(404, "EntryNotFound", "Entry not found", **commit)
            return
        content = files[path]
        fault = hub.take_fault(repo, BODY_FAULTS) if self.command == "GET" else None
        start, stop, total = 0, size(content), size(content)
        headers = {**commit, "ETag": f'"{etag(content)}"', "Accept-Ranges": "bytes"}
        if wanted := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            start, stop = span(wanted[1], wanted[2], total)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"
        if start >= stop and total:
            self.begin(416, 0, {**commit, "Content-Range": f"bytes */{total}"})
            return
        half = (start + stop) // 2
        self.begin(206 if wanted else 200, (half if fault == "truncates" else stop) - start, headers)
        if self.command == "GET":
            hub.downloads.append(f"{repo}/{path}")
            self.send(content, start, half if fault else stop)
            while fault == "stalls" and hub.running and hub.faults.get(repo) == "stalls":
                time.sleep(0.02)

    def send(self, content: Content, start: int, stop: int) -> None:
        if isinstance(content, bytes):
            self.wfile.write(content[start:stop])
            return
        with content.open("rb") as file:
            file.seek(start)
            while start < stop and (piece := file.read(min(CHUNK, stop - start))):
                self.wfile.write(piece)
                start += len(piece)

    def refuse(self, status: int, code: str, message: str, **headers: str) -> None:
        named = {"X-Error-Code": code} if code else {}
        body = json.dumps({"error": message}).encode()
        self.begin(status, len(body), {**headers, **named, "X-Error-Message": message})
        if self.command != "HEAD":
            self.wfile.write(body)

    def give_json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.begin(200, len(body), {"Content-Type": "application/json"})
        self.wfile.write(body)

    def begin(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


def span(first: str, last: str, total: int) -> tuple[int, int]:
    """Start and stop of an HTTP range, whose two numbers are inclusive and may be left out."""
    if not first:
        return max(0, total - int(last)), total
    return int(first), min(total, int(last) + 1) if last else total


def tree(files: Files, folder: str, recursive: bool) -> Iterator[dict[str, object]]:
    """The entries below a folder, folders first met before what they hold."""
    prefix = f"{folder}/" if folder else ""
    seen: set[str] = set()
    for path in sorted(path for path in files if path.startswith(prefix)):
        steps = path.removeprefix(prefix).split("/")
        for depth in range(1, len(steps) + 1 if recursive else 2):
            if (part := prefix + "/".join(steps[:depth])) not in seen:
                seen.add(part)
                yield from entries(files, part)


def entries(files: Files, path: str) -> list[dict[str, object]]:
    """A file or folder as the hub lists it; none if it is not there."""
    if path in files:
        content = files[path]
        return [{"type": "file", "path": path, "size": size(content), "oid": etag(content)}]
    folder = any(name.startswith(f"{path}/") for name in files)
    return [{"type": "directory", "path": path, "size": 0, "oid": etag(path.encode())}] if folder else []
