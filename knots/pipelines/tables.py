"""A table of the paper: a method a row, our number beside the published one in each cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from knots.errors import KnotsError
from knots.pipelines.experiment import NOT_RUN, Compose, Experiment, Picture, Product, Runner
from knots.pipelines.merge import Outcome
from knots.pipelines.plans import MergePlan, parse_merge
from knots.pipelines.search import SearchOutcome
from knots.pipelines.search_plan import SearchPlan, parse_search
from knots.pipelines.values import check_keys, choice, names_of, text
from knots.reporting.charts import bars
from knots.reporting.comparison import HITS, Metrics, Value, accuracy, average, joint, normalized
from knots.reporting.published import Published
from knots.reporting.sheets import Cell, Row, Sheet
from knots.suites.tasks import Suite

LABELS = {
    "zero_shot": "Zero-shot",
    "finetuned": "Fine-tuned",
    "ensemble": "Ensemble",
    "regmean": "RegMean",
    "fisher": "Fisher",
    "task_arithmetic": "Task Arithmetic",
    "dare_task_arithmetic": "DARE-TA",
    "ties": "TIES",
    "dare_ties": "DARE-TIES",
    "knots_ties": "KnOTS-TIES",
    "knots_dare_ties": "KnOTS-DARE-TIES",
    "knots_rows_ties": "KnOTS-TIES (rows)",
    "core_ties": "Core-TIES",
    "core_tsv": "Core-TSV",
}
AVERAGE = "average"


@dataclass(frozen=True)
class Paper:
    """Which figures of the file of published ones a table is compared with.

    Attributes:
        table: "1" to "4", "A1".
        model: name of the model there.
        setting: "per_task" or "joint".
    """

    table: str
    model: str
    setting: str


@dataclass(frozen=True)
class TablePlan:
    """One table.

    Attributes:
        experiment: its name and place.
        rows: method -> its run, or the search for its options.
        paper: what it is compared with; None for nothing.
        published: all published figures.
    """

    experiment: Experiment
    rows: Mapping[str, MergePlan | SearchPlan]
    paper: Paper | None
    published: Published


def run_table(plan: TablePlan, console: Console) -> Product:
    """Run the rows that are missing, and put all of them beside the published figures.

    A row that cannot be run does not keep the others from it: the table says why it is missing.
    """
    runner, product = Runner(plan.experiment, console), Product()
    found: dict[str, Outcome | SearchOutcome | None] = {}
    for method, row in plan.rows.items():
        run = runner.search if isinstance(row, SearchPlan) else runner.merge
        found[method] = product.attempt(method, lambda run=run, row=row: run(row))  # type: ignore[misc]
    best = {method: _best(outcome) for method, outcome in found.items()}
    for outcome in best.values():
        if outcome is not None:
            product.took(outcome)
    sheet = _Builder(plan, product.failures).sheet(found)
    product.sheets.append(sheet)
    measured = {method: outcome for method, outcome in best.items() if outcome is not None}
    if measured:
        product.pictures["bars"] = _picture(plan, measured)
    return product


def _best(outcome: Outcome | SearchOutcome | None) -> Outcome | None:
    return outcome.best if isinstance(outcome, SearchOutcome) else outcome


@dataclass(frozen=True)
class _Builder:
    """Makes the sheet of a table."""

    plan: TablePlan
    failures: Mapping[str, str]

    def sheet(self, found: Mapping[str, Outcome | SearchOutcome | None]) -> Sheet:
        rows: list[Row] = []
        for method, outcome in found.items():
            rows.append(self._row(method, _best(outcome)))
            if isinstance(outcome, SearchOutcome) and len(outcome.tests) > 1:
                rows.append(self._seeds_row(method, outcome))
        unit = "hits, %" if self._joint else "normalized accuracy, % (zero-shot, fine-tuned: accuracy, %)"
        return Sheet(
            name=self.plan.experiment.name,
            title=f"{self.plan.experiment.title}: {unit}",
            columns=tuple(self._columns),
            rows=tuple(rows),
            notes=tuple(self._notes(found)),
        )

    @property
    def _first(self) -> MergePlan:
        row = next(iter(self.plan.rows.values()))
        return row.merge if isinstance(row, SearchPlan) else row

    @property
    def _joint(self) -> bool:
        return self._first.scoring.mode == "joint"

    @property
    def _suite(self) -> Suite:
        return self._first.suite

    @property
    def _columns(self) -> list[str]:
        return [f"hits@{k}" for k in HITS] if self._joint else [*self._suite.task_names, AVERAGE]

    def _row(self, method: str, outcome: Outcome | None) -> Row:
        """The row of one method; its published figures stand there also where nothing was run."""
        cells = [self._cell(method, column, outcome) for column in self._columns]
        missing = None if outcome is not None else self.failures.get(method, NOT_RUN)
        return Row(LABELS.get(method, method), tuple(cells), missing)

    def _cell(self, method: str, column: str, outcome: Outcome | None) -> Cell:
        figure = self._published(method, column)
        cell = {} if figure is None else {"published": figure.value, "second_hand": figure.second_hand}
        if outcome is None:
            return Cell(**cell)
        value = measured(outcome.run.metrics, method, column)
        return Cell(ours=value.percent, interval=value.interval, run=outcome.run.run_id, **cell)

    def _published(self, method: str, column: str) -> Any:
        paper = self.plan.paper
        if paper is None:
            return None
        metric = "accuracy" if method in ("zero_shot", "finetuned") else "normalized_accuracy"
        return self.plan.published.find(
            table=paper.table,
            model=paper.model,
            setting=paper.setting,
            method=method,
            metric=column if self._joint else metric,
            column=AVERAGE if self._joint else column,
        )

    def _seeds_row(self, method: str, search: SearchOutcome) -> Row:
        """Mean and deviation over the seeds of DARE's masks."""
        cells = []
        for column in self._columns:
            tests = search.tests.values()
            values = [measured(test.run.metrics, method, column).percent for test in tests]
            known = [value for value in values if value is not None]
            mean, deviation = float(np.mean(known)), float(np.std(known, ddof=1))
            cells.append(Cell(ours=mean, note=f"deviation {deviation:.2f} over {len(known)} seeds"))
        return Row(f"{LABELS.get(method, method)}, mean of {len(search.tests)} seeds", tuple(cells))

    def _notes(self, found: Mapping[str, Outcome | SearchOutcome | None]) -> list[str]:
        scoring = self._first.scoring
        split = next(
            (row.test_split for row in self.plan.rows.values() if isinstance(row, SearchPlan)), scoring.split
        )
        metrics = next((o.run.metrics for o in map(_best, found.values()) if o is not None), None)
        items = "" if metrics is None else f", {sum(t['n'] for t in metrics['per_task'].values()):,} items"
        notes = [f"{split} split of {self._suite.name}{items}; protocol {scoring.protocol}"]
        if not self._joint:
            notes.append(f"normalized by the {scoring.normalize_by} fine-tuned accuracies")
        return [*notes, *(_options_note(method, outcome) for method, outcome in found.items() if outcome)]


def measured(metrics: Metrics, method: str, column: str) -> Value:
    """The number of a cell: hits, or accuracies, normalized ones for what is not a baseline."""
    if column.startswith("hits@"):
        return joint(metrics, column)
    whole = method in ("zero_shot", "finetuned")
    if column == AVERAGE:
        return average(metrics, "accuracy" if whole else "normalized")
    return accuracy(metrics, column) if whole else normalized(metrics, column)


def _options_note(method: str, outcome: Outcome | SearchOutcome) -> str:
    """With which options a row was run, where they come from, and which run it is."""
    best = _best(outcome)
    assert best is not None
    merge, run = best.run.metrics["merge"], best.run
    words = [f"{key} {merge[key]:g}" for key in ("scale", "density", "drop") if merge.get(key) is not None]
    words += [f"seed {run.metrics['seed']}"] if merge.get("drop") else []
    source = [merge["source"]] if merge.get("source") else (["neutral options"] if words else [])
    searched = []
    if isinstance(outcome, SearchOutcome):
        record = outcome.run.metrics
        edges = [f"{option} {end}" for option, end in record["edge"].items() if end]
        searched = [f"{record['evaluations']} evaluations", f"on the edge: {', '.join(edges) or 'no'}"]
    told = "; ".join(filter(None, [", ".join(words), *source, *searched, f"run {run.run_id}"]))
    return f"{LABELS.get(method, method)}: {told}"


def _picture(plan: TablePlan, found: Mapping[str, Outcome]) -> Picture:
    columns: Sequence[str] = _Builder(plan, {})._columns
    values = {
        LABELS.get(method, method): [measured(outcome.run.metrics, method, column) for column in columns]
        for method, outcome in found.items()
        if method not in ("zero_shot", "finetuned") or columns[0].startswith("hits@")
    }
    if not values:
        values = {
            LABELS[method]: [measured(o.run.metrics, method, column) for column in columns]
            for method, o in found.items()
        }
    unit = "hits (%)" if columns[0].startswith("hits@") else "normalized accuracy (%)"
    figure = bars(values, columns, title=plan.experiment.title, ylabel=unit)
    intervals = "Wilson" if columns[0].startswith("hits@") else "bootstrap over items"
    return Picture(figure, f"{plan.experiment.title}: {unit}; whiskers: 95 % intervals ({intervals})")


KEYS = ("name", "kind", "title", "paper", "common", "rows", "settings", "search")
SETTINGS = ("published", "search")


def parse_table(
    experiment: Experiment, values: Mapping[str, Any], compose: Compose, published: Published
) -> TablePlan:
    """Read the configuration of a table.

    Args:
        experiment: its name and place.
        values: plain values with the keys of a file of this kind in `conf/experiment/`.
        compose: composes a row's configuration.
        published: all published figures.

    Raises:
        KnotsError: a key is unknown or a value has the wrong type; or as `parse_merge` and `parse_search`.
    """
    check_keys("experiment", values, KEYS)
    settings = choice("experiment.settings", values["settings"], SETTINGS)
    search = text("experiment.search", values["search"]) if settings == "search" else None
    methods = names_of("experiment.rows", values["rows"])
    common = names_of("experiment.common", values["common"])
    rows = {method: parse_row(method, common, search, compose) for method in methods}
    return TablePlan(experiment, rows, parse_paper(values["paper"]), published)


def parse_paper(values: object) -> Paper | None:
    """Which published figures a table is compared with."""
    if values is None:
        return None
    keys = ("table", "model", "setting")
    if not isinstance(values, Mapping) or set(values) != set(keys):
        raise KnotsError(f"experiment.paper={values!r}; null, or a mapping with {', '.join(keys)}, is needed")
    return Paper(*(str(values[key]) for key in keys))


def parse_row(
    method: str, common: Sequence[str], search: str | None, compose: Compose
) -> MergePlan | SearchPlan:
    """One method's run; with a search for its options where there is something to search.

    Rules that look at data have no published options, and are run with those of their configuration.
    """
    plan = parse_merge(compose("merge", [*common, f"merge={method}"]))
    if search is None or plan.kind != "merged" or plan.calibration is not None:
        return plan
    return parse_search(compose("search", [*common, f"merge={method}", f"search={search}"]))
