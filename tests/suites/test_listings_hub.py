"""Data sets of a hub on loopback, with the real clients: what is asked, downloaded and kept."""

import io
import sys
import threading
from contextlib import suppress
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

from knots.errors import KnotsError
from knots.suites import listings
from knots.suites.data import Reading, load_split, source_identity
from tests.hub import Hub, files_of
from tests.suites.pictures import (
    OTHER,
    READING,
    expected,
    identity,
    one_task,
    picture_folder,
    repository,
    write_parquet,
)


@pytest.fixture(autouse=True)
def _a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "_answers", {})


def forget() -> None:
    """As if a new process began."""
    listings._answers.clear()


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | Path]:
    return repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture
def stocked(hub: Hub, signs: dict[str, bytes | Path]) -> Hub:
    hub.datasets["me/signs"] = dict(signs)
    return hub


def data_files(hub: Hub) -> list[str]:
    return sorted(name for name in set(hub.downloads) if name.endswith(("parquet", "png")))


PLAIN = ["me/signs/plain/test-00000-of-00002.parquet", "me/signs/plain/test-00001-of-00002.parquet"]


def test_only_the_split_is_downloaded_and_only_once(stocked: Hub, tmp_path: Path):
    task = one_task("me/signs", config="plain")
    arrays = load_split(task, "test", tmp_path / "cache", READING)
    np.testing.assert_array_equal(arrays.images, expected(5))
    assert data_files(stocked) == PLAIN
    forget()
    stocked.downloads.clear()
    load_split(task, "test", tmp_path / "cache", READING)
    load_split(task, "test", tmp_path / "cache", Reading(OTHER))
    assert data_files(stocked) == []
    noisy = load_split(one_task("me/signs", config="noisy"), "test", tmp_path / "cache", READING)
    np.testing.assert_array_equal(noisy.images, expected(5, seed=5))
    assert data_files(stocked) == ["me/signs/noisy/test-00000-of-00001.parquet"]


def test_nothing_is_left_behind(stocked: Hub, tmp_path: Path):
    before = {thread for thread in threading.enumerate() if not thread.daemon}
    load_split(one_task("me/signs", config="plain"), "test", tmp_path / "cache", READING)
    assert {thread for thread in threading.enumerate() if not thread.daemon} - before == set()
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"data", "listings"}
    # The hub's cache holds the files; `datasets` keeps nothing.
    assert not list((tmp_path / "huggingface").glob("datasets/**/*"))


def test_a_process_reads_one_commit(stocked: Hub, tmp_path: Path):
    task = one_task("me/signs", config="plain")
    before = source_identity(task, "test", tmp_path / "cache", READING)
    stocked.datasets["me/signs"] = {**stocked.datasets["me/signs"], "new.txt": b"uploaded meanwhile"}
    assert source_identity(task, "test", tmp_path / "cache", READING) == before
    assert len([line for line in stocked.requests if line == "GET /api/datasets/me/signs"]) <= 1
    forget()
    assert source_identity(task, "test", tmp_path / "cache", READING) != before


def test_without_the_network(stocked: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    task = one_task("me/signs", config="plain")
    first = load_split(task, "test", tmp_path / "cache", READING)
    stocked.stop()
    forget()
    again = load_split(task, "test", tmp_path / "cache", READING)
    np.testing.assert_array_equal(again.images, first.images)
    # The hub's cache serves what is transformed in another way.
    other = load_split(task, "test", tmp_path / "cache", Reading(OTHER))
    np.testing.assert_array_equal(other.images, expected(5, transform=OTHER))
    (warning,) = [record for record in caplog.records if record.name == listings.__name__]
    assert "cannot be reached" in warning.getMessage()
    assert stocked.commit("me/signs", "dataset") in warning.getMessage()
    # What was never asked for cannot be had.
    with pytest.raises(KnotsError, match=r"data set 'me/signs':.* cannot be reached"):
        load_split(task, "train", tmp_path / "cache", READING)


@pytest.mark.parametrize("revision", [None, "v1", "commit"])
def test_a_copy_in_the_hubs_cache_serves_without_a_network(
    revision: str | None, stocked: Hub, tmp_path: Path
):
    """As a cluster has it: downloaded on the login node, by `hf download`."""
    stocked.datasets["me/signs@v1"] = stocked.datasets["me/signs"]
    commit = stocked.commit("me/signs", "dataset")
    revision = commit if revision == "commit" else revision
    task = one_task("me/signs", config="plain", revision=revision)
    online = source_identity(task, "test", tmp_path / "other", READING)
    huggingface_hub.snapshot_download("me/signs", repo_type="dataset", revision=revision)
    stocked.stop()
    forget()
    arrays = load_split(task, "test", tmp_path / "cache", READING)
    np.testing.assert_array_equal(arrays.images, expected(5))
    assert source_identity(task, "test", tmp_path / "cache", READING) == online
    # It is no answer of the hub's, and is asked for again by another process.
    assert not (tmp_path / "cache" / "listings").exists()


def test_half_a_copy_in_the_hubs_cache_does_not_serve(stocked: Hub, tmp_path: Path):
    huggingface_hub.snapshot_download(
        "me/signs", repo_type="dataset", allow_patterns=["README.md", "noisy/*"]
    )
    stocked.stop()
    with pytest.raises(KnotsError, match=r"data set 'me/signs':.* cannot be reached"):
        load_split(one_task("me/signs", config="plain"), "test", tmp_path / "cache", READING)


def test_a_pinned_revision_is_listed_once(stocked: Hub, tmp_path: Path):
    old = dict(stocked.datasets["me/signs"])
    stocked.datasets["me/signs@v1"] = old
    stocked.datasets["me/signs"] = {
        **old,
        "plain/test-00000-of-00002.parquet": old["noisy/test-00000-of-00001.parquet"],
    }
    commit = stocked.commit("me/signs@v1", "dataset")
    keys = []
    for revision in ("v1", commit):
        task = one_task("me/signs", config="plain", revision=revision)
        arrays = load_split(task, "test", tmp_path / "cache", READING)
        np.testing.assert_array_equal(arrays.images, expected(5))
        keys.append(source_identity(task, "test", tmp_path / "cache", READING))
    assert keys[0] == keys[1] != identity("me/signs", tmp_path / "cache", config="plain")
    # A commit never changes: nobody is asked again.
    forget()
    stocked.requests.clear()
    assert source_identity(task, "test", tmp_path / "cache", READING) == keys[1]
    assert stocked.requests == []
    with pytest.raises(KnotsError, match=r"'me/signs' has no revision 'v2'"):
        load_split(one_task("me/signs", revision="v2"), "test", tmp_path / "cache", READING)


def test_a_hub_that_was_never_reached(hub: Hub, tmp_path: Path):
    hub.stop()
    with pytest.raises(KnotsError, match=r"data set 'me/signs':.* cannot be reached") as caught:
        load_split(one_task("me/signs"), "test", tmp_path / "cache", READING)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("gated", "'me/signs' is gated: accept its terms at"),
        ("missing", "'me/signs'.* no such repository on the hub"),
        ("server_error", "'me/signs'.* HTTP 500"),
        ("drops", "'me/signs'.* failed: .*try again"),
        ("truncates", "'me/signs'.* failed: .*try again"),
    ],
)
def test_faults_of_the_hub_are_one_message(fault: str, message: str, stocked: Hub, tmp_path: Path):
    stocked.faults["me/signs"] = fault
    task = one_task("me/signs", config="plain")
    with pytest.raises(KnotsError, match=message) as caught:
        load_split(task, "test", tmp_path / "cache", READING)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache" / "data").exists()
    del stocked.faults["me/signs"]
    assert len(load_split(task, "test", tmp_path / "cache", READING)) == 5


def test_a_download_that_drops_at_first_goes_on(stocked: Hub, tmp_path: Path):
    stocked.faults["me/signs"] = ("drops", 1)
    with suppress(KnotsError):  # the client tries again by itself only from some version on
        load_split(one_task("me/signs", config="plain"), "test", tmp_path / "cache", READING)
    arrays = load_split(one_task("me/signs", config="plain"), "test", tmp_path / "cache", READING)
    np.testing.assert_array_equal(arrays.images, expected(5))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, r"data set 'me/signs' needs a `config` \(known: plain, noisy\)"),
        ({"config": "nosy"}, r"unknown config of data set 'me/signs': 'nosy'; did you mean 'noisy'"),
        ({"config": "noisy"}, r"unknown split of data set 'me/signs': 'train' .*fog, test"),
    ],
)
def test_a_wrong_configuration_of_a_hub_id(
    source: dict[str, str], message: str, stocked: Hub, tmp_path: Path
):
    with pytest.raises(KnotsError, match=message):
        load_split(one_task("me/signs", **source), "train", tmp_path / "cache", READING)


def test_folders_of_pictures_on_the_hub(hub: Hub, tmp_path: Path):
    hub.datasets["me/signs"] = files_of(picture_folder(tmp_path / "signs"))
    task = one_task("me/signs", {"train": 6, "test": 3})
    arrays = load_split(task, "test", tmp_path / "cache", READING)
    assert arrays.labels.tolist() == [0, 2, 1]
    assert len(data_files(hub)) == 9  # the classes are those of all splits


def test_a_file_with_signs_of_a_pattern_in_its_name(hub: Hub, tmp_path: Path):
    write_parquet(tmp_path / "signs" / "test-[1].parquet", 3)
    load_split(one_task(tmp_path / "signs", {"test": 3}), "test", tmp_path / "cache", READING)
    hub.datasets["me/signs"] = files_of(tmp_path / "signs")
    arrays = load_split(one_task("me/signs", {"test": 3}), "test", tmp_path / "cache", READING)
    np.testing.assert_array_equal(arrays.images, expected(3))


def test_a_damaged_memory_of_the_listing_is_asked_anew(stocked: Hub, tmp_path: Path):
    task = one_task("me/signs", config="plain")
    before = source_identity(task, "test", tmp_path / "cache", READING)
    (memo,) = (tmp_path / "cache" / "listings").iterdir()
    for content in ("", "[]", '{"files": []}', '{"files": {"test": 3}}'):
        memo.write_text(content)
        forget()
        assert source_identity(task, "test", tmp_path / "cache", READING) == before


class Stderr(io.StringIO):
    """A terminal, or a log file."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_the_download_and_a_log_shows_no_bars(
    terminal: bool, stocked: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", None)
    monkeypatch.setattr(sys, "stderr", Stderr(terminal))
    load_split(one_task("me/signs", config="plain"), "test", tmp_path / "cache", READING)
    shown = sys.stderr.getvalue()
    assert "Generating" not in shown
    assert ("Fetching 2 files" in shown) if terminal else shown == ""
