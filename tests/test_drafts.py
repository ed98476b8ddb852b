"""Run folders become whole or not at all."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from knots.drafts import writing
from knots.errors import KnotsError
from knots.runs import all_runs, find_run

METRICS = {"schema": 1, "merge": {"method": "ties"}, "per_task": {}}


def finish(root: Path, name: str, metrics: dict = METRICS) -> Path:
    with writing(root, name, config={"a": 1}, identity={"b": 2}) as draft:
        (draft.folder / "data.txt").write_text(json.dumps(metrics))
        draft.metrics.update(metrics)
    return root / name


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_finished_run_holds_everything_and_is_found(tmp_path: Path):
    folder = finish(tmp_path, "abc")
    assert names(folder) == ["config.yaml", "data.txt", "log.txt", "metrics.json", "provenance.json"]
    found = find_run(tmp_path, "abc")
    assert found is not None
    assert (found.run_id, found.metrics, found.fresh) == ("abc", METRICS, False)
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["started"] <= provenance["finished"]
    assert provenance["versions"]["torch"]
    assert provenance["machine"]["cpus"] >= 1
    assert provenance["identity"] == {"b": 2}
    assert find_run(tmp_path, "other") is None


def test_what_was_measured_stands_in_the_provenance_and_not_in_the_metrics(tmp_path: Path):
    with writing(tmp_path, "abc", config={}, identity={}) as draft:
        draft.metrics.update(METRICS)
        draft.measured["speed"] = {"images": 3}
    assert json.loads((tmp_path / "abc" / "provenance.json").read_text())["speed"] == {"images": 3}
    assert find_run(tmp_path, "abc").metrics == METRICS


def test_what_the_package_logs_is_kept(tmp_path: Path):
    import logging

    with writing(tmp_path, "abc", config={}, identity={}):
        logging.getLogger("knots.somewhere").info("a line")
    assert "knots.somewhere: a line" in (tmp_path / "abc" / "log.txt").read_text()


def test_a_failed_run_leaves_nothing(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), writing(tmp_path, "abc", config={}, identity={}):
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_running_again_replaces_the_run_only_when_the_new_one_is_whole(tmp_path: Path):
    finish(tmp_path, "abc", {**METRICS, "n": 1})
    with pytest.raises(ZeroDivisionError), writing(tmp_path, "abc", config={}, identity={}):
        raise ZeroDivisionError
    assert find_run(tmp_path, "abc").metrics["n"] == 1
    finish(tmp_path, "abc", {**METRICS, "n": 2})
    assert find_run(tmp_path, "abc").metrics["n"] == 2
    assert names(tmp_path) == ["abc"]


def test_a_replacement_cut_off_between_its_renames_is_undone(tmp_path: Path):
    finish(tmp_path, "abc").rename(tmp_path / ".abc.replaced-1")
    assert find_run(tmp_path, "abc").metrics == METRICS
    assert names(tmp_path) == ["abc"]


KILLED = """
import sys, time
from pathlib import Path
from knots.drafts import writing
with writing(Path(sys.argv[1]), "abc", config={}, identity={}) as draft:
    draft.metrics.update(schema=1, merge={}, per_task={})
    (draft.folder / "metrics.json").write_text("{}")
    print("writing", flush=True)
    time.sleep(600)
"""


def test_a_killed_run_never_looks_finished_and_is_cleaned_up(tmp_path: Path):
    root = tmp_path / "merge"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(root)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "writing\n"
        assert len(names(root)) == 1
        # A living process keeps its folder.
        finish(root, "other")
        assert len(names(root)) == 2
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert find_run(root, "abc") is None
    assert [run.run_id for run in all_runs(tmp_path)] == ["other"]
    finish(root, "abc")
    assert names(root) == ["abc", "other"]


def test_a_forgotten_folder_of_another_machine_is_cleaned_up(tmp_path: Path):
    for name, age in (("new", 0), ("old", 8 * 24 * 3600)):
        folder = tmp_path / f".{name}.partial-elsewhere-1"
        folder.mkdir()
        os.utime(folder, (time.time() - age,) * 2)
    finish(tmp_path, "abc")
    assert names(tmp_path) == [".new.partial-elsewhere-1", "abc"]


def test_a_full_disk_is_one_message_and_keeps_the_old_run(tmp_path: Path):
    finish(tmp_path, "abc", {**METRICS, "n": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # No file may grow beyond 4 kB: what a full disk does, without filling one.
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with (
            pytest.raises(KnotsError, match=r"cannot write .*(too large|Nothing of this run was kept)"),
            writing(tmp_path, "abc", config={}, identity={}) as draft,
        ):
            (draft.folder / "predictions.parquet").write_bytes(b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, kept)
    assert find_run(tmp_path, "abc").metrics["n"] == 1
    assert names(tmp_path) == ["abc"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk/file"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_recognized_from_every_writer(tmp_path: Path, error: Exception):
    with (
        pytest.raises(KnotsError, match="No space left on device"),
        writing(tmp_path, "abc", config={}, identity={}),
    ):
        raise error
    assert names(tmp_path) == []


def test_an_error_about_something_else_passes(tmp_path: Path):
    with pytest.raises(FileNotFoundError), writing(tmp_path, "abc", config={}, identity={}):
        (tmp_path / "nothing").read_text()


def test_a_root_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(KnotsError, match=r"cannot write .*file"),
        writing(tmp_path / "file" / "merge", "abc", config={}, identity={}),
    ):
        pass


def test_only_the_first_process_of_a_job_leaves_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    finish(tmp_path, "abc")
    assert names(tmp_path) == []
