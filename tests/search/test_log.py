import json
import logging

import pytest

from knots.errors import KnotsError
from knots.search import Trial, TrialLog


def trial(scale, seed=0):
    return Trial(
        {"scale": scale, "density": 0.2, "drop": 0.0}, seed, {"a": 10, "b": 20}, {"a": 5, "b": 15}, None
    )


def test_what_is_added_is_found_by_this_log_and_by_the_next(tmp_path):
    path = tmp_path / "deep" / "trials.jsonl"
    log = TrialLog(path)
    log.add(trial(0.1))
    log.add(trial(0.2, seed=1))
    for reader in (log, TrialLog(path)):
        assert len(reader) == 2
        assert reader.find({"density": 0.2, "drop": 0.0, "scale": 0.1}, 0) == trial(0.1)
        assert reader.find(trial(0.2).options, 1) == trial(0.2, seed=1)
        assert reader.find(trial(0.2).options, 0) is None


def test_a_line_that_was_cut_off_costs_its_trial_and_no_other(tmp_path, caplog):
    path = tmp_path / "trials.jsonl"
    for scale in (0.1, 0.2):
        TrialLog(path).add(trial(scale))
    path.write_bytes(path.read_bytes()[:-9])
    with caplog.at_level(logging.WARNING):
        log = TrialLog(path)
    assert "cut off" in caplog.text
    assert len(log) == 1
    log.add(trial(0.3))
    for scale in (0.1, 0.3):
        assert TrialLog(path).find(trial(scale).options, 0) == trial(scale)
    assert len(TrialLog(path)) == 2


def test_two_processes_share_a_log(tmp_path):
    first, second = TrialLog(tmp_path / "t.jsonl"), TrialLog(tmp_path / "t.jsonl")
    first.add(trial(0.1))
    second.add(trial(0.1))
    second.add(trial(0.2))
    assert len(TrialLog(tmp_path / "t.jsonl")) == 2


def test_only_the_process_that_writes_leaves_a_file(tmp_path):
    silent = TrialLog(tmp_path / "t.jsonl", writes=False)
    silent.add(trial(0.1))
    silent.forget()
    assert not (tmp_path / "t.jsonl").exists()


def test_forgetting_starts_anew(tmp_path):
    log = TrialLog(tmp_path / "t.jsonl")
    log.add(trial(0.1))
    log.forget()
    assert (len(log), len(TrialLog(tmp_path / "t.jsonl"))) == (0, 0)


def test_a_line_is_plain_json(tmp_path):
    TrialLog(tmp_path / "t.jsonl").add(trial(0.1))
    assert json.loads((tmp_path / "t.jsonl").read_text())["options"] == {
        "scale": 0.1,
        "density": 0.2,
        "drop": 0.0,
    }


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KnotsError, match=r"cannot write the trials to .*file/t\.jsonl"):
        TrialLog(tmp_path / "file" / "t.jsonl").add(trial(0.1))
