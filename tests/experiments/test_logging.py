"""Each task's training gets a logger of its own."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger

from experiments._logging import TaskLoggers


def config(folder: Path, target: str | None) -> dict[str, Any]:
    logger = {"_target_": target, "save_dir": str(folder), "name": "csv"} if target else {"_target_": None}
    return {"model": {"name": "mini_clip"}, "logger": logger}


def test_a_task_has_its_own_curves(tmp_path: Path):
    with TaskLoggers(config(tmp_path, "lightning.pytorch.loggers.CSVLogger")) as loggers:
        for task in ("signs", "digits"):
            logger = loggers(task)
            assert isinstance(logger, CSVLogger)
            logger.log_metrics({"loss": 1.0}, step=0)
            logger.save()
            loggers.close()
    assert {path.parent.parent.name for path in tmp_path.rglob("metrics.csv")} == {
        "mini_clip-signs",
        "mini_clip-digits",
    }


def test_without_a_logger_there_is_none(tmp_path: Path):
    with TaskLoggers(config(tmp_path, None)) as loggers:
        assert loggers("signs") is None


class Broken(CSVLogger):
    """A logger whose disk is full."""

    def log_hyperparams(self, *_: Any) -> None:
        raise OSError("no space left")


def test_training_goes_on_without_a_logger_that_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with TaskLoggers(config(tmp_path, f"{__name__}.Broken")) as loggers:
        assert loggers("signs") is None
    assert "signs is trained without a logger" in caplog.text
