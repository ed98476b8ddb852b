"""Tables for the terminal. Each fits itself to the width: wide, then with rows and columns exchanged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from knots.reporting.comparison import (
    HITS,
    Comparison,
    Metrics,
    Value,
    accuracy,
    average,
    has_joint,
    is_language,
    joint,
    macro,
    majority,
    normalized,
)

INTERVALS = "± 95 % interval (Wilson; bootstrap over items for averages and normalized)"

# Options shown in the table of runs, with the values that go without saying.
TOLD = {"scale": None, "density": 1.0, "drop": 0.0}
SAID = {
    "trim": "model",
    "isotropize": False,
    "reduce": None,
    "max_rank": None,
    "universe": 0,
    "shared_init": True,
}
SHORT = 6
"""Digits of a run id that are shown; the folder's name begins with them."""


@dataclass(frozen=True)
class Grid:
    """A table whose rows and columns change places where it would be too wide.

    Attributes:
        title: stands above.
        columns: headers.
        rows: (label, cells), one cell a column.
        strong: labels of the rows to stress.
        caption: stands below.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Text]]]
    strong: Sequence[str] = ()
    caption: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it across if it fits, else closer together, else downwards."""
        shapes = (self._across(gap=1), self._across(gap=0), self._down())
        yield next((table for table in shapes[:2] if _fits(table, console, options)), shapes[2])

    def _across(self, gap: int) -> Table:
        table = _table(self.title, gap, self.caption)
        table.add_column("", no_wrap=True)
        for column in self.columns:
            table.add_column(_stacked(column), justify="right", no_wrap=True)
        for label, cells in self.rows:
            table.add_row(label, *cells, style=self._style(label))
        return table

    def _down(self) -> Table:
        table = _table(self.title, 1, self.caption)
        table.add_column("", no_wrap=True)
        for label, _ in self.rows:
            table.add_column(label, justify="right", style=self._style(label))
        for place, column in enumerate(self.columns):
            table.add_row(column, *(cells[place] for _, cells in self.rows))
        return table

    def _style(self, label: str) -> str:
        return "bold" if label in self.strong else ""


def result_view(comparison: Comparison) -> RenderableType:
    """What one run found: accuracy of every task beside the baselines, and the joint hits below."""
    parts: list[RenderableType] = []
    if any(accuracy(comparison.metrics, task).percent is not None for task in comparison.tasks):
        parts.append(_per_task(comparison))
    if has_joint(comparison.metrics):
        parts.append(_joint(comparison))
    return Group(*parts)


def _per_task(comparison: Comparison) -> Grid:
    tasks, series = comparison.tasks, comparison.series()
    rows = [
        (label, [_cell(accuracy(metrics, task)) for task in tasks] + [_cell(average(metrics, "accuracy"))])
        for label, metrics in series.items()
    ]
    if is_language(comparison.metrics):
        rows.insert(0, _majority_row(comparison))
    relative = [normalized(comparison.metrics, task) for task in tasks]
    relative.append(average(comparison.metrics, "normalized"))
    if any(value.percent is not None for value in relative):
        rows.append(("normalized", [_cell(value) for value in relative]))
    counts = [comparison.metrics["per_task"][task]["n"] for task in tasks]
    rows.append(("n", [Text(_count(n), style="dim") for n in [*counts, _total(counts)]]))
    return Grid(
        title=f"{comparison.title}: accuracy among a task's own classes, %",
        columns=[*tasks, "average"],
        rows=rows,
        strong=[*list(series)[-1:], "normalized"],
        caption=INTERVALS,
    )


def _majority_row(comparison: Comparison) -> tuple[str, list[Text]]:
    """What the best constant answer reaches."""
    values = [majority(comparison.metrics, task) for task in comparison.tasks]
    known = [value.percent for value in values if value.percent is not None]
    mean = Value(sum(known) / len(known) if known else None)
    return "majority class", [_plain(value) for value in (*values, mean)]


def _joint(comparison: Comparison) -> Grid:
    found = {label: metrics for label, metrics in comparison.series().items() if has_joint(metrics)}
    rows = [(_oracle(label), _joint_cells(metrics)) for label, metrics in found.items()]
    numbers = comparison.metrics["joint"]
    return Grid(
        title=f"All tasks jointly: {numbers['classes']} classes, {_count(numbers['n'])} items, %",
        columns=[*(f"hits@{k}" for k in HITS), "dedup@1", "macro@1"],
        rows=rows,
        strong=[rows[-1][0]],
    )


def _oracle(label: str) -> str:
    return "fine-tuned (oracle)" if label == "fine-tuned" else label


def _joint_cells(metrics: Metrics) -> list[Text]:
    keys = [*(f"hits@{k}" for k in HITS), "hits_dedup@1"]
    return [_cell(joint(metrics, key)) for key in keys] + [_cell(macro(metrics, "hits@1"))]


def runs_view(comparisons: Iterable[tuple[str, Metrics]]) -> RenderableType:
    """Finished runs side by side, one block for each model, suite and split.

    Args:
        comparisons: (run id, metrics) in the order in which they are shown.
    """
    return Group(*(RunsTable(title, runs) for title, runs in blocks_of(comparisons).items()))


def blocks_of(comparisons: Iterable[tuple[str, Metrics]]) -> dict[str, list[tuple[str, Metrics]]]:
    """Title -> (run id, metrics) of the runs of one model, suite and split."""
    blocks: dict[str, list[tuple[str, Metrics]]] = {}
    for name, metrics in comparisons:
        title = f"{metrics['model']} on {metrics['suite']}, {metrics['split']} split"
        blocks.setdefault(title, []).append((name, metrics))
    return blocks


@dataclass(frozen=True)
class RunsTable:
    """Runs of one model on one suite as rows; where it is too wide, the tasks get a table of their own."""

    title: str
    runs: Sequence[tuple[str, Metrics]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw one table or two."""
        summary = ["average", "normalized", *(f"hits@{k}" for k in HITS[:3] if self._any_joint)]
        tasks = list(dict.fromkeys(task for _, metrics in self.runs for task in metrics["per_task"]))
        whole = self._rows(self.title, [*tasks, *summary])
        if _fits(whole, console, options):
            yield whole
        else:
            yield self._rows(self.title, summary)
            yield self._rows(f"{self.title}: accuracy per task, %", tasks, told=False)

    @property
    def _any_joint(self) -> bool:
        return any(has_joint(metrics) for _, metrics in self.runs)

    def _rows(self, title: str, columns: Sequence[str], told: bool = True) -> Table:
        table = _table(title, gap=0)
        table.add_column("run", no_wrap=True, style="dim")
        table.add_column("merge")
        for column in columns:
            table.add_column(_stacked(column), justify="right", no_wrap=True)
        for name, metrics in self.runs:
            cells = [_plain(run_number(metrics, column)) for column in columns]
            table.add_row(name[:SHORT], _label(metrics) if told else metrics["merge"]["method"], *cells)
        return table


def _table(title: str, gap: int, caption: str | None = None) -> Table:
    """An empty table without a frame; `gap`: blanks between columns beside the one of the frame."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, gap, 0, 0),
        pad_edge=False,
    )


def _fits(table: Table, console: Console, options: ConsoleOptions) -> bool:
    return console.measure(table, options=options.update(max_width=10_000)).maximum <= options.max_width


def run_number(metrics: Metrics, column: str) -> Value:
    """The number that stands below a header: "average", "normalized", "hits@k", or a task's name."""
    if column in ("average", "normalized"):
        return average(metrics, {"average": "accuracy"}.get(column, column))
    if column.startswith("hits@"):
        return joint(metrics, column)
    return accuracy(metrics, column) if column in metrics["per_task"] else Value(None)


def _label(metrics: Metrics) -> str:
    """The method, and below it the options that tell its runs apart."""
    told = told_options(metrics)
    return "\n  ".join([str(metrics["merge"]["method"]), *([told] if told else [])])


def told_options(metrics: Metrics) -> str:
    """The options of a run that do not go without saying, as "scale 0.6, density 0.2"."""
    merge = metrics["merge"]
    words = [f"{key} {merge[key]:g}" for key in TOLD if merge.get(key) not in (None, TOLD[key])]
    words += [f"{key} {merge[key]}" for key in SAID if merge.get(key) not in (None, SAID[key])]
    if merge.get("drop"):
        words.append(f"seed {metrics['seed']}")
    return ", ".join(words)


def _stacked(name: str) -> str:
    """A header in as few columns as its words allow."""
    return name.replace("@", "\n@") if "@" in name else name.replace("_", "\n")


def _cell(value: Value) -> Text:
    if value.percent is None:
        return Text("-", style="dim")
    text = Text(f"{value.percent:.1f}")
    return text if value.margin is None else text.append(f"\n±{value.margin:.1f}", style="dim not bold")


def _plain(value: Value) -> Text:
    return Text("-", style="dim") if value.percent is None else Text(f"{value.percent:.1f}")


def _count(n: int | None) -> str:
    return "-" if n is None else f"{n:,}"


def _total(counts: Sequence[int | None]) -> int:
    return sum(n or 0 for n in counts)
