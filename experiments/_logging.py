"""What is logged of finished runs and records, and of trainings while they go on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments._loggers import (
    Config,
    Entry,
    end_logger,
    is_wandb,
    is_wanted,
    log,
    log_trials,
    numbers,
    open_logger,
    write_entry,
)
from knots.pipelines import Outcome
from knots.runs import Run

__all__ = ["TaskLoggers", "log_outcome", "log_record", "log_trials", "sheet_rows"]

ENTRY_POINTS = {"search": "search", "analysis": "analyze", "experiment": "reproduce"}
"""Kind of a record -> the entry point that makes it, as W&B's job type."""


def log_outcome(outcome: Outcome, config: Config, *, group: str | None = None) -> None:
    """Log a merge run and those of its baselines that were made with it.

    A run that was found is not logged again. Under a sweep's agent the one run that the agent waits for is
    logged in any case, and nothing else: all runs of the process would share that one's id.

    Args:
        outcome: the finished run.
        config: the resolved configuration.
        group: W&B's group; None takes the configuration's.
    """
    if not is_wanted(config):
        return
    swept = bool(os.environ.get("WANDB_SWEEP_ID")) and is_wandb(config["logger"])
    runs = [outcome.run] if swept else [*outcome.baselines.values(), outcome.run]
    for run in runs:
        if run.fresh or swept:
            write_entry(_merge_entry(run, config), config["logger"], group)


def log_record(
    folder: Path,
    record: Mapping[str, Any],
    config: Config,
    *,
    group: str | None = None,
    trials: Iterable[Mapping[str, Any]] | None = None,
) -> None:
    """Log a finished search, analysis or experiment; to be called where it was made, not where it was found.

    Args:
        folder: where it is; its name is the id.
        record: what its `metrics.json` holds.
        config: the resolved configuration.
        group: W&B's group; None takes the configuration's.
        trials: of a search, as `log_trials` takes them; None takes the record's own.
    """
    if not is_wanted(config):
        return
    kind = str(record["record"])
    title = str(record.get("experiment") or kind)
    sheets = {str(sheet["name"]): sheet for sheet in record.get("sheets") or ()}
    subject = [title] if "experiment" in record else [title, *_subject(record)]
    entry = Entry(
        name="-".join([*subject, folder.name]),
        job_type=ENTRY_POINTS.get(kind, kind),
        tags=[subject[-1]],
        config={**config, "run_id": folder.name},
        numbers=numbers(record) | {k: ours for sheet in sheets.values() for k, ours in _sheet_numbers(sheet)},
        tables={name: sheet_rows(sheet) for name, sheet in sheets.items()},
        figures=_figures(folder, record.get("figures")),
        trials=_trials(record) if trials is None else trials,
    )
    write_entry(entry, config["logger"], group)


class TaskLoggers:
    """Gives each task's training a logger of its own, made from the configuration; closed with the block."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.current = ""

    def __enter__(self) -> TaskLoggers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, task: str) -> Any:
        """A fresh logger for the training of `task`; None where the configuration names none."""
        if not is_wanted(self.config):
            return None
        kind = (self.config.get("finetune") or {}).get("kind")
        name = f"{self.config['model']['name']}-{task}"
        entry = Entry(name, "finetune", [str(kind)] if kind else [], {**self.config, "task": task})
        self.current = name
        try:
            logger = open_logger(entry, self.config["logger"], None)
            logger.log_hyperparams(dict(entry.config))
        except Exception as error:
            log.warning("%s is trained without a logger: %s", task, error)
            self.close()
            return None
        return logger

    def close(self) -> None:
        """End the current task's run."""
        name, self.current = self.current, ""
        if name:
            end_logger(name)


def sheet_rows(sheet: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a sheet, as `Sheet.to_json` gives it.

    Each column becomes three: ours, published, difference. The last one says why a row has no numbers.
    """
    rows = []
    for row in sheet["rows"]:
        values: dict[str, Any] = {"row": row["label"]}
        for column, cell in zip(sheet["columns"], row["cells"], strict=True):
            ours, published = cell.get("ours"), cell.get("published")
            values[str(column)] = ours
            values[f"{column} (published)"] = published
            values[f"{column} (difference)"] = None if None in (ours, published) else ours - published
        rows.append({**values, "missing": row.get("missing")})
    return rows


def _sheet_numbers(sheet: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Our own number of every cell, under `<sheet>/<row>/<column>`."""
    for row in sheet["rows"]:
        for column, cell in zip(sheet["columns"], row["cells"], strict=True):
            if cell.get("ours") is not None:
                yield f"{sheet['name']}/{row['label']}/{column}", float(cell["ours"])


def _subject(record: Mapping[str, Any]) -> list[str]:
    """The model and method that a record is about, as far as it names them."""
    return [str(record[key]) for key in ("model", "method") if record.get(key)]


def _trials(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The trials of a search; where several seeds were searched, one seed's after the other's."""
    parts = [record, *(record.get("seeds") or ())]
    return [trial for part in parts for trial in part.get("trials") or ()]


def _merge_entry(run: Run, config: Config) -> Entry:
    """A merge run or a baseline, under the configuration that it was made with.

    That is not the command's where a baseline was made beside a merge, or a merge for an experiment.
    """
    metrics, merge = run.metrics, run.metrics["merge"]
    own, adapter = run.config() or config, run.folder / "adapter"
    per_task = [{"task": task, **numbers(found)} for task, found in metrics["per_task"].items()]
    return Entry(
        name=f"{metrics['model']}-{merge['method']}-{run.run_id}",
        job_type="merge",
        tags=[str(merge["method"])],
        config={**own, "merge": dict(merge), "seed": metrics["seed"], "run_id": run.run_id},
        numbers=numbers(metrics),
        tables={"per_task": per_task},
        figures=_figures(run.folder, None),
        adapter=adapter if adapter.is_dir() else None,
        about={
            "run_id": run.run_id,
            **{key: metrics[key] for key in ("model", "suite", "split", "seed")},
            "method": merge["method"],
            "options": {key: value for key, value in merge.items() if key not in ("kind", "method")},
            "commit": run.provenance().get("commit"),
        },
    )


def _figures(folder: Path, listed: Iterable[Mapping[str, Any]] | None) -> dict[str, tuple[Path, str]]:
    """Name -> (image, caption) of the figures that a record lists, or of all that the folder has."""
    if not listed:
        return {path.stem: (path, path.stem) for path in sorted((folder / "figures").glob("*.png"))}
    paths = ((folder / str(figure["file"]), str(figure.get("caption") or "")) for figure in listed)
    return {path.stem: (path, caption) for path, caption in paths}
