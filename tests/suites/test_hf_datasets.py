"""Complaints of `datasets` are one line, a full disk is none of them, and bars are as before."""

import errno
from pathlib import Path

import datasets
import pytest
from datasets.exceptions import DatasetGenerationError
from datasets.utils import are_progress_bars_disabled

from knots.errors import KnotsError
from knots.suites.hf_datasets import about_data, no_bars


def fail(error: Exception, path: Path | str, cause: Exception | None = None) -> None:
    with about_data(str(path)):
        raise error from cause


def test_a_fault_of_the_folder_is_one_line_with_its_cause(tmp_path: Path):
    with pytest.raises(KnotsError, match=r"data in '.*' cannot be read: no magic, not even one byte$"):
        fail(
            DatasetGenerationError("An error occurred"), tmp_path, ValueError("no magic,\n not even one byte")
        )


def test_a_full_disk_stays_what_it_is(tmp_path: Path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left") as caught:
        fail(DatasetGenerationError("An error occurred"), tmp_path, full)
    assert caught.value is full
    with pytest.raises(OSError, match="No space left") as caught:
        fail(full, tmp_path)
    assert caught.value is full


def test_other_errors_pass(tmp_path: Path):
    for error, path in (
        (ValueError("of a hub id"), "me/signs"),
        (KeyError("of ours"), tmp_path),
        (KnotsError("told already"), tmp_path),
    ):
        with pytest.raises(type(error)) as caught:
            fail(error, path)
        assert caught.value is error


def test_bars_are_as_they_were(monkeypatch: pytest.MonkeyPatch):
    def interrupted() -> None:
        with no_bars():
            assert are_progress_bars_disabled()
            raise KeyboardInterrupt

    assert not are_progress_bars_disabled()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not are_progress_bars_disabled()
    # What the user chose by a variable stands, without a warning.
    monkeypatch.setattr(datasets.config, "HF_DATASETS_DISABLE_PROGRESS_BARS", False)
    with no_bars():
        assert not are_progress_bars_disabled()
