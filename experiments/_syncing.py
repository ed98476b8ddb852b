"""Uploads of W&B's offline runs, each by a `wandb sync` of its own.

A process a run, because W&B's uploader is one process for all the runs it is given: where it dies of one of
them, none of the others arrives. Its exit code is 0 in either case; whether a run arrived is told by the mark
that it leaves beside the run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from experiments._resolvers import has_wandb_key
from knots.errors import KnotsError

Say = Callable[[str], None]

SECONDS_TO_ANSWER = 15.0
"""How long the server may take to show that it is there."""

MARK = ".synced"


def sync_runs(output_dir: Path, *, workers: int, dry_run: bool, say: Say) -> None:
    """Upload every offline run below `output_dir` that was not uploaded yet.

    Args:
        output_dir: the loggers' folder; runs are in `wandb/offline-run-*`.
        workers: runs that are uploaded at the same time.
        dry_run: only say which they are.
        say: is given one line at a time.

    Raises:
        KnotsError: no key is configured, the server cannot be reached, or a run could not be uploaded; all
            others were.
    """
    runs = offline_runs(output_dir)
    waiting = [run for run in runs if not is_synced(run)]
    uploaded = f"{len(runs) - len(waiting)} uploaded already"
    if not waiting:
        say(f"no offline runs to upload below {output_dir / 'wandb'} ({uploaded})")
        return
    if dry_run:
        say("\n".join([f"{_runs(len(waiting))} would be uploaded ({uploaded}):", *map(str, waiting)]))
        return
    _check_server(_server())
    failed = {}
    for number, (run, reason) in enumerate(_uploads(waiting, workers), start=1):
        say(f"{number} of {len(waiting)}: {run.name}: {reason or 'uploaded'}")
        if reason:
            failed[run] = reason
    if failed:
        shown = "; ".join(f"{run}: {reason}" for run, reason in sorted(failed.items()))
        raise KnotsError(f"{len(failed)} of {_runs(len(waiting))} could not be uploaded: {shown}")


def offline_runs(output_dir: Path) -> list[Path]:
    """The folders of all runs that were logged offline, the oldest first."""
    folders = sorted((output_dir / "wandb").glob("offline-run-*"))
    return [folder for folder in folders if any(folder.glob("*.wandb"))]


def is_synced(run: Path) -> bool:
    """Whether W&B left its mark beside all that it logged of a run."""
    return all(file.with_name(file.name + MARK).exists() for file in run.glob("*.wandb"))


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"


def _uploads(runs: list[Path], workers: int) -> Iterator[tuple[Path, str]]:
    """Each run and why it could not be uploaded, "" if it was, in the order in which they end."""
    with ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(_upload, run): run for run in runs}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _upload(run: Path) -> str:
    # Whoever logs offline by habit may have set the mode for every command.
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_MODE"}
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", str(run.resolve())],
        env=environment,
        # Where W&B puts a log of its own, beside the runs.
        cwd=run.parent.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return "" if is_synced(run) else _reason(done.stdout, done.returncode)


def _reason(output: str, code: int) -> str:
    """What W&B says went wrong, in one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = [line.partition("ERROR ")[2] for line in lines if "ERROR " in line]
    errors = said or [line for line in lines if line.startswith(("Error", "panic:"))]
    return (errors or lines or [f"wandb sync ended with exit code {code}"])[-1]


def _server() -> str:
    """The server that W&B would upload to."""
    import wandb

    settings = wandb.setup(wandb.Settings(silent=True)).settings
    return os.environ.get("WANDB_BASE_URL") or str(settings.base_url)


def _check_server(url: str) -> None:
    """Ask before the uploads begin, for W&B would go on trying in silence."""
    if not has_wandb_key(url):
        raise KnotsError(
            f"no key for W&B ({url}) is configured, so nothing was uploaded; `uv run wandb login`, or set "
            "WANDB_API_KEY"
        )
    try:
        with urllib.request.urlopen(url, timeout=SECONDS_TO_ANSWER):
            pass
    except urllib.error.HTTPError:
        # It answers.
        pass
    except OSError as error:
        raise KnotsError(f"cannot reach W&B at {url}, so nothing was uploaded: {error}") from error
