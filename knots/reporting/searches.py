"""What a search found, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def search_view(record: Mapping[str, Any]) -> RenderableType:
    """The chosen options of every seed, their values on both splits, and how they were found.

    Args:
        record: `metrics.json` of a search.
    """
    test = record["test"]
    table = Table(title=record["title"], title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    several = len(record["seeds"]) > 1
    for column in (*(["seed"] if several else []), *record["searched"], record["split"]):
        table.add_column(column, justify="right")
    if test is not None:
        table.add_column(test["split"], justify="right")
    table.add_column("trials", justify="right")
    table.add_column("on the edge")
    for entry in record["seeds"]:
        chosen = several and entry["seed"] == record["chosen"]["seed"]
        table.add_row(*_cells(record, entry, several), style="bold" if chosen else "")
    return Group(table, *_lines(record))


def _cells(record: Mapping[str, Any], entry: Mapping[str, Any], several: bool) -> list[str]:
    test = record["test"]
    cells = [str(entry["seed"])] if several else []
    cells += [f"{entry['chosen'][option]:g}" for option in record["searched"]]
    cells.append(f"{entry['value']:.2f}")
    if test is not None:
        cells.append(f"{test['values'][str(entry['seed'])]:.2f}")
    edges = [f"{option} {end}" for option, end in entry["edge"].items() if end]
    return [*cells, str(entry["evaluations"]), ", ".join(edges) or "no"]


def _lines(record: Mapping[str, Any]) -> list[Text]:
    lines = [f"protocol: {record['protocol']}, on the {record['split']} split"]
    lines.append(f"evaluations: {record['evaluations']}; values are {record['metric']}, %")
    test = record["test"]
    if test is not None and test["deviation"] is not None:
        lines.append(
            f"{test['split']}: {test['value']:.2f} with the best seed on {record['split']}; over "
            f"{len(test['values'])} seeds {test['mean']:.2f} \u00b1 {test['deviation']:.2f} (mean, deviation)"
        )
    return [Text(line) for line in lines]
