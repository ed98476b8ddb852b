"""A split of a data set as a table, read with `datasets`; what that library writes is deleted again."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from knots import hub
from knots.errors import unknown
from knots.files import remove_leftovers
from knots.suites.hf_datasets import about_data, no_bars
from knots.suites.listings import Listing

SCRATCH = ".datasets-"
"""How the names of temporary copies begin."""

READ_AS_WRITTEN = {"csv": {"keep_default_na": False, "na_values": [""]}}
"""Otherwise pandas takes sentences such as `n/a`, `None` or `null` for absent ones."""


@contextmanager
def open_table(listing: Listing, split: str, cache_dir: Path) -> Iterator[Any]:
    """One split as a `datasets.Dataset`, while the block runs.

    Args:
        listing: the files.
        split: the name of the split in the data set.
        cache_dir: where the copy that `datasets` makes goes for the time being.

    Raises:
        KnotsError: a file cannot be downloaded or read.
    """
    import datasets

    files = listing.fetch()
    cache_dir.mkdir(parents=True, exist_ok=True)
    remove_leftovers(cache_dir, f"{SCRATCH}*")
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=cache_dir) as scratch:
        with hub.asking(listing.path, kind="dataset"), about_data(listing.path), no_bars():
            table = datasets.load_dataset(
                listing.builder,
                data_files={name: [glob.escape(file) for file in theirs] for name, theirs in files.items()},
                split=split,
                cache_dir=scratch,
                verification_mode="no_checks",
                **{**READ_AS_WRITTEN.get(listing.builder, {}), **listing.options},
            )
        yield table
        del table


def check_columns(table: Any, columns: Iterable[str], where: str) -> None:
    """Refuse a table that lacks one of these columns.

    Raises:
        KnotsError: it does; the message names those that there are.
    """
    for column in columns:
        if column not in table.column_names:
            raise unknown(f"column of {where}:", column, table.column_names)
