"""One run of the logger that the configuration names: opened, filled, ended.

The numbers go to every logger; tables, figures and merged adapters to W&B, which has a place for them. The
run folder is whole before anything here begins, so a logger that fails is a warning, whatever it raises: the
process that W&B runs beside ours may die, and a server may answer what W&B cannot read.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra

from knots.runs import is_first_process

log = logging.getLogger("knots.experiments")

Config = Mapping[str, Any]

TAG_LENGTH = 64
NAME_LENGTH = 128
"""W&B refuses longer ones."""


@dataclass(frozen=True)
class Entry:
    """What one run of the logger holds.

    Attributes:
        name: how the run is called.
        job_type: the entry point that the run is of.
        tags: what runs are filtered by.
        config: the configuration, with the run id.
        numbers: name -> value.
        tables: name -> rows, each column -> value.
        figures: name -> (image file, caption).
        adapter: the merged adapter's folder; None where nothing was merged.
        about: what is noted of the adapter.
        trials: of a search, as `log_trials` takes them.
    """

    name: str
    job_type: str
    tags: Sequence[str]
    config: Config
    numbers: Mapping[str, float] = field(default_factory=dict)
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    figures: Mapping[str, tuple[Path, str]] = field(default_factory=dict)
    adapter: Path | None = None
    about: Config = field(default_factory=dict)
    trials: Iterable[Mapping[str, Any]] = ()


def is_wanted(config: Config) -> bool:
    """Whether this process logs at all."""
    return bool(config["logger"].get("_target_")) and is_first_process()


def is_wandb(settings: Config) -> bool:
    """Whether the logger's settings are of W&B's."""
    return str(settings.get("_target_")).rpartition(".")[2] == "WandbLogger"


def write_entry(entry: Entry, settings: Config, group: str | None) -> None:
    """Make a run of the logger that holds `entry`.

    Args:
        entry: what is logged.
        settings: the configuration's `logger`.
        group: W&B's group; None takes that of the settings.
    """
    try:
        logger = open_logger(entry, settings, group)
        logger.log_hyperparams(dict(entry.config))
        log_trials(logger, entry.trials)
        logger.log_metrics(entry.numbers)
        if is_wandb(settings):
            _log_media(logger, entry, settings.get("artifacts", False))
        logger.finalize("success")
    except Exception as error:
        log.warning("%s is finished, but could not be logged: %s", entry.name, error)
    end_logger(entry.name)


def open_logger(entry: Entry, settings: Config, group: str | None) -> Any:
    """A fresh logger of Lightning, under the entry's name."""
    _silence_wandb()
    name = "/".join(filter(None, [settings.get("name"), _plain(entry.name)]))
    chosen = {key: value for key, value in settings.items() if key != "artifacts"} | {"name": name}
    if is_wandb(settings):
        chosen["group"] = group or settings.get("group")
        chosen["job_type"] = settings.get("job_type") or entry.job_type
        chosen["tags"] = [*(settings.get("tags") or ()), *(tag[:TAG_LENGTH] for tag in entry.tags)]
    return hydra.utils.instantiate(chosen)


def end_logger(name: str) -> None:
    """End the run of W&B that this process has open, if it has one; `name` is what a warning calls it."""
    try:
        import wandb

        if wandb.run is not None:
            wandb.run.finish()
    except Exception as error:
        log.warning("%s is finished, but its logger could not end: %s", name, error)


def log_trials(logger: Any, trials: Iterable[Mapping[str, Any]]) -> None:
    """Log one step a trial, so that the logger draws the search's curve.

    Args:
        logger: a logger of Lightning.
        trials: in order; every number of a trial and of its `options` is logged as `search/<key>`, and the
            largest `value` so far as `search/best`.
    """
    best: float | None = None
    for step, trial in enumerate(trials):
        found = {key.removeprefix("options/"): number for key, number in numbers(trial).items()}
        value = found.get("value")
        if value is not None:
            best = value if best is None else max(best, value)
        if best is not None:
            found["best"] = best
        logger.log_metrics({f"search/{key}": number for key, number in found.items()}, step=step)


def numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Every number of nested mappings under a name like `per_task/digits/accuracy`; lists are passed over."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = value
    return found


def _log_media(logger: Any, entry: Entry, limit: object) -> None:
    """Tables, figures and the merged adapter."""
    for name, rows in entry.tables.items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        logger.log_table(
            name, columns=columns, data=[[row.get(column) for column in columns] for row in rows]
        )
    for name, (image, caption) in entry.figures.items():
        logger.log_image(name, [str(image)], caption=[caption])
    if entry.adapter is not None and _fits(entry.adapter, limit):
        _log_adapter(logger, entry, entry.adapter)


def _fits(folder: Path, limit: object) -> bool:
    """Whether `logger.artifacts` lets a folder of this size be uploaded."""
    if isinstance(limit, bool):
        return limit
    if not isinstance(limit, int | float):
        log.warning("logger.artifacts=%r; true, false or a number of MB is needed: no adapter logged", limit)
        return False
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    if size > limit:
        log.info("adapter of %.3g MB not logged: logger.artifacts is %g (MB; true: any size)", size, limit)
    return size <= limit


def _log_adapter(logger: Any, entry: Entry, folder: Path) -> None:
    """The adapter's files as an artifact. They are read where they are: a finished run does not change."""
    import wandb

    artifact = wandb.Artifact(_plain(entry.name), type="adapter", metadata=dict(entry.about))
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        # Absolute, for an offline run is uploaded from wherever that command is typed.
        artifact.add_file(str(path.resolve()), name=path.relative_to(folder).as_posix(), policy="immutable")
    logger.experiment.log_artifact(artifact)


def _plain(name: str) -> str:
    """A name that may be that of a folder and of an artifact."""
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[-NAME_LENGTH:]


def _silence_wandb() -> None:
    """The configuration silences a run of W&B; this, what is said before there is one."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))
