"""How the library `datasets` is called here: complaints in a line that names the data set, and no bars."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from knots import hub
from knots.errors import KnotsError, unknown


@contextmanager
def about_data(path: str) -> Iterator[None]:
    """Name the data set in complaints of `datasets` about its content; a full disk stays an `OSError`.

    Raises:
        KnotsError: `datasets` cannot read the folder. Complaints about a hub id pass unchanged.
    """
    import datasets

    try:
        yield
    except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split()) or type(cause).__name__
        if isinstance(error, KnotsError) or not Path(path).is_dir():
            raise
        if isinstance(cause, OSError) and cause.errno in hub.DISK_FAULTS:
            raise cause from None
        raise KnotsError(f"data in {path!r} cannot be read: {reason}") from error


@contextmanager
def no_bars() -> Iterator[None]:
    """Without the progress bars of `datasets`, which go into log files too; a user's own choice stands."""
    import datasets
    from datasets.utils import are_progress_bars_disabled

    if datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS is not None or are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


@contextmanager
def about_config(path: str, config: str | None) -> Iterator[None]:
    """Name the configurations of a data set that has several, where none or another is asked for."""
    try:
        yield
    except ValueError as error:
        listed = re.search(r"vailable[^\[]*\[(.*?)\]", str(error), re.DOTALL)
        if not str(error).startswith(("Config name", "BuilderConfig")) or listed is None:
            raise
        names = re.findall(r"'(.+?)'", listed[1])
        if config is not None:
            raise unknown(f"config of data set {path!r}:", config, names) from error
        raise KnotsError(f"data set {path!r} needs a `config` (known: {', '.join(names)})") from error
