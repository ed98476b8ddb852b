"""Data sets on the hub that are faulty themselves, read with the real client from a hub on loopback."""

import errno
import re

import datasets
import huggingface_hub
import pytest

from knots import hub as client
from tests.hub import Hub, message_of
from tests.hub_server import Files

README = b"""---
configs:
- config_name: noisy
  data_files: [{split: test, path: noisy/*}]
---
"""


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (
            {"README.md": README, "noisy/a.csv": b"n\n1"},
            {"name": "loud"},
            r"'me/x'.* BuilderConfig 'loud' not found. Available: .*noisy",
        ),
        (
            {"notes.abc": b"x"},
            {},
            r"'me/x'.* No \(supported\) data files found in me/x; see http\S+/datasets/me/x$",
        ),
        ({"README.md": b"text"}, {}, r"'me/x'.* doesn't contain any data files; see"),
        ({"x.py": b"code"}, {}, r"'me/x' is a script, .*revision='refs/convert/parquet'"),
        ({"a.csv": b"n\n1"}, {"revision": "v2"}, r"'me/x' has no revision 'v2'"),
        (
            {"a.csv": b"n\n1"},
            {"split": "valid"},
            r"'me/x'.*Unknown split \"valid\"\. Should be one of \['train'\]",
        ),
        ({"a.csv": b"n\n1", "b.csv": b"m\n1"}, {}, r"'me/x'.*: DatasetGenerationError: .* \(ArrowInvalid: "),
    ],
)
def test_faulty_data_sets(hub: Hub, files: Files, options: dict[str, str], message: str) -> None:
    hub.datasets["me/x"] = files

    def ask() -> object:
        with client.asking("me/x", kind="dataset", revision=options.get("revision")):
            return datasets.load_dataset("me/x", **options)

    assert re.search(message, text := message_of(ask)), text


def test_missing_file(hub: Hub) -> None:
    hub.datasets["me/signs"] = {"a.csv": b"n\n1"}

    def ask() -> object:
        with client.asking("me/signs", kind="dataset"):
            return huggingface_hub.hf_hub_download("me/signs", "a/b.txt", repo_type="dataset")

    assert re.search(r"'me/signs' has no file 'a/b.txt'; see http\S+/datasets/me/signs", message_of(ask))


def test_disk_that_fills_while_a_data_set_is_prepared(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("datasets.arrow_writer.ArrowWriter.finalize", no_space)
    hub.datasets["me/signs"] = {"a.csv": b"n\n1"}
    with (
        pytest.raises(OSError, match="No space left on device") as caught,
        client.asking("me/signs", kind="dataset"),
    ):
        datasets.load_dataset("me/signs")
    assert caught.value.errno == errno.ENOSPC
