"""A terminal that shows our own lines, bars and tables and nobody else's."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from huggingface_hub import constants
from huggingface_hub.utils import enable_progress_bars
from huggingface_hub.utils import logging as hub_logging
from rich.console import Console
from rich.text import Text
from transformers.utils import logging as transformers_logging

from knots.pipelines import Outcome
from knots.pipelines.reproduce import Reproduced
from knots.pipelines.search.run import SearchOutcome
from knots.reporting import render
from knots.reporting.searches import search_view
from knots.reporting.tables import result_view
from knots.runs import is_first_process


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
    # Lightning guesses from Slurm's commands that it was meant to be started by them (see knots.processes).
    warnings.filterwarnings("ignore", message=r"The `srun` command is available", category=UserWarning)
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
