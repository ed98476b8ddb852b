"""A terminal that shows our own lines, bars and tables and nobody else's; and the loggers."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import hydra
import pandas as pd
from huggingface_hub import constants
from huggingface_hub.utils import enable_progress_bars
from huggingface_hub.utils import logging as hub_logging
from rich.console import Console
from rich.text import Text
from transformers.utils import logging as transformers_logging

from knots.pipelines import Outcome
from knots.pipelines.reproduce import Reproduced
from knots.pipelines.search import SearchOutcome
from knots.reporting import render
from knots.reporting.searches import search_view
from knots.reporting.tables import result_view
from knots.runs import is_first_process

log = logging.getLogger("knots.experiments")


class _ConsoleHandler(logging.Handler):
    """Writes log lines between the progress bars; warnings are marked."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        warned = record.levelno >= logging.WARNING
        text = f"warning: {record.getMessage()}" if warned else record.getMessage()
        self.console.print(Text(text, style="yellow" if warned else ""))


@contextlib.contextmanager
def session() -> Iterator[Console]:
    """A console for one job; our log lines and all warnings go to it while the block runs."""
    console = Console(quiet=not is_first_process())
    # Lightning announces devices it found and products it sells on every run.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # A bar for reading a file that takes milliseconds.
    transformers_logging.disable_progress_bar()
    # That took the bars of downloads away too, which a user at a terminal wants to see.
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
        enable_progress_bars()
    # Libraries that log through the root logger would give it a handler, and all of our lines a double.
    logging.getLogger().addHandler(logging.NullHandler())
    # The hub's clients tell of every retry; what becomes of it is told by our own one message.
    hub_logging.set_verbosity_error()
    logger, handler = logging.getLogger("knots"), _ConsoleHandler(console)
    # Raised inside Lightning by its own use of torch's private trees; nothing that a user could change.
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning)
    # transformers reads its own deprecated property when PEFT wraps a model.
    warnings.filterwarnings("ignore", message=r"`is_gradient_checkpointing`", category=FutureWarning)
    shown = warnings.showwarning
    # As log lines they also reach the run's log.txt.
    warnings.showwarning = lambda message, *_, **__: logger.warning(str(message))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield console
    finally:
        logger.removeHandler(handler)
        warnings.showwarning = shown


def show_outcome(outcome: Outcome, console: Console) -> None:
    """Print the table, and where everything is."""
    console.print()
    console.print(result_view(outcome.comparison))
    for note in outcome.run.metrics["notes"]:
        console.print(Text(f"note: {note}"))
    console.print(Text(f"Run folder: {outcome.run.folder}"), soft_wrap=True)


def show_search(outcome: SearchOutcome, console: Console) -> None:
    """Print what was found for every seed, the best on the test split, and where everything is."""
    console.print()
    console.print(search_view(outcome.run.metrics))
    if outcome.best is not None:
        console.print(result_view(outcome.best.comparison))
        console.print(Text(f"Run folder of the best: {outcome.best.run.folder}"), soft_wrap=True)
    for note in outcome.run.metrics["notes"]:
        console.print(Text(f"note: {note}"))
    console.print(Text(f"Search folder: {outcome.run.folder}"), soft_wrap=True)


def show_experiment(done: Reproduced, console: Console) -> None:
    """Print the tables, and where they and the figures are."""
    console.print()
    for sheet in done.product.sheets:
        console.print(render.text(sheet))
    for note in done.run.metrics["notes"]:
        console.print(Text(f"note: {note}"))
    console.print(Text(f"Tables and figures: {done.run.folder}"), soft_wrap=True)


def log_outcome(outcome: Outcome, config: dict[str, Any]) -> None:
    """Give a fresh run's numbers, table and figure to the logger that the configuration names."""
    if not outcome.run.fresh or not is_first_process() or not config["logger"].get("_target_"):
        return
    wandb = _silent_wandb()
    logger = hydra.utils.instantiate(config["logger"])
    try:
        logger.log_hyperparams({**config, "run_id": outcome.run.run_id})
        logger.log_metrics(_numbers(outcome.run.metrics))
        if hasattr(logger, "log_table"):
            logger.log_table("per_task", dataframe=_frame(outcome))
            logger.log_image("accuracy", [str(outcome.run.folder / "figures" / "accuracy.png")])
        logger.finalize("success")
        _finish(logger)
    except (wandb.errors.Error, OSError) as error:
        log.warning("the run is finished, but %s could not log it: %s", type(logger).__name__, error)


class TaskLoggers:
    """Gives each task's training a logger of its own, made from the configuration; closed with the block."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.current: Any = None

    def __enter__(self) -> TaskLoggers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, task: str) -> Any:
        """A fresh logger for the training of `task`; None where the configuration names none."""
        settings = self.config["logger"]
        if not settings.get("_target_") or not is_first_process():
            return None
        wandb = _silent_wandb()
        name = "/".join(filter(None, [settings.get("name"), f"{self.config['model']['name']}-{task}"]))
        try:
            logger = hydra.utils.instantiate(settings, name=name)
            logger.log_hyperparams({**self.config, "task": task})
        except (wandb.errors.Error, OSError) as error:
            log.warning("%s is trained without a logger: %s", task, error)
            return None
        self.current = logger
        return logger

    def close(self) -> None:
        """End the current task's run."""
        logger, self.current = self.current, None
        if logger is not None:
            _finish(logger)


def _silent_wandb() -> Any:
    """W&B, imported only where something is logged: what is skipped should not wait for it."""
    import wandb

    # The configuration silences a run; this, what is said before there is one.
    wandb.setup(wandb.Settings(silent=True))
    return wandb


def _finish(logger: Any) -> None:
    """End a logger's run, if it is one of W&B."""
    import wandb

    if isinstance(logger.experiment, wandb.Run):
        logger.experiment.finish()


def _numbers(metrics: Any, prefix: str = "") -> dict[str, float]:
    """Every number of `metrics.json` under a name like `per_task/digits/accuracy`."""
    found: dict[str, float] = {}
    for key, value in metrics.items():
        if isinstance(value, dict):
            found |= _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[prefix + key] = value
    return found


def _frame(outcome: Outcome) -> pd.DataFrame:
    """One row a task, with the numbers of `per_task`."""
    tasks = outcome.run.metrics["per_task"]
    rows = [{"task": task, **_numbers(numbers)} for task, numbers in tasks.items()]
    return pd.DataFrame(rows)
