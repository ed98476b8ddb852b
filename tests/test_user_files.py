"""A file named by path or URL: there, downloaded once, read without running it, or a line saying why not."""

import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from knots.errors import KnotsError
from knots.user_files import load_tensors, local_file


@pytest.fixture
def server() -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if "absent" in self.path else 200)
            self.end_headers()
            self.wfile.write(b"content")

        def log_message(self, *_: object) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_a_path(tmp_path: Path):
    (tmp_path / "a.pt").write_bytes(b"x")
    assert local_file(str(tmp_path / "a.pt"), "file", tmp_path) == tmp_path / "a.pt"
    with pytest.raises(KnotsError, match="file 'b' is not there"):
        local_file(str(tmp_path / "b"), "file 'b'", tmp_path)


def test_a_url_is_downloaded_once(server: str, tmp_path: Path):
    path = local_file(f"{server}/heads.pt?raw=1", "file", tmp_path)
    assert path.read_bytes() == b"content"
    assert path.suffix == ".pt"
    path.write_bytes(b"kept")
    assert local_file(f"{server}/heads.pt?raw=1", "file", tmp_path).read_bytes() == b"kept"


def test_what_cannot_be_downloaded_leaves_nothing(server: str, tmp_path: Path):
    with pytest.raises(KnotsError, match="file cannot be downloaded: HTTP Error 404"):
        local_file(f"{server}/absent.pt", "file", tmp_path)
    with pytest.raises(KnotsError, match=r"file cannot be downloaded: .*give the path of a copy"):
        local_file("http://127.0.0.1:9/heads.pt", "file", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_tensors_of_either_form(tmp_path: Path):
    tensors = {"a": torch.arange(3)}
    torch.save(tensors, tmp_path / "a.pt")
    save_file(tensors, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        assert torch.equal(load_tensors(tmp_path / name, "file")["a"], tensors["a"])


def test_what_would_run_code_or_is_damaged_is_refused(tmp_path: Path):
    (tmp_path / "code.pt").write_bytes(pickle.dumps(Path("x")))
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    for name in ("code.pt", "bad.safetensors"):
        with pytest.raises(KnotsError, match="file 'x' cannot be read: "):
            load_tensors(tmp_path / name, "file 'x'")
