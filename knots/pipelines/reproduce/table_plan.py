"""What a table of the paper is made of, checked: from plain values to frozen objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from knots.errors import KnotsError
from knots.pipelines.plans import MergePlan, parse_merge
from knots.pipelines.reproduce.experiment import Compose, Experiment
from knots.pipelines.search.plan import SearchPlan, parse_search
from knots.pipelines.values import check_keys, choice, flag, names_of, text, whole
from knots.reporting.comparison import HITS
from knots.reporting.published import Published

LABELS = {
    "zero_shot": "Zero-shot",
    "single": "Best single adapter",
    "router": "Nearest-adapter router",
    "multitask": "Multi-task LoRA",
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
    "knots_ties_unscaled": "KnOTS-TIES (Core Space)",
    "knots_tsv_unscaled": "KnOTS-TSV (Core Space)",
    "ties_count": "TIES (TARA)",
    "dare_ties_count": "DARE-TIES (TARA)",
    "knots_ties_count": "KnOTS-TIES (TARA)",
    "knots_dare_ties_count": "KnOTS-DARE-TIES (TARA)",
    "core_ties": "Core-TIES",
    "core_tsv": "Core-TSV",
}
AVERAGE = "average"


@dataclass(frozen=True)
class Paper:
    """Which figures of the file of published ones a table is compared with.

    Attributes:
        tables: "1" to "4", "A1"; a figure is taken from the first that has it.
        model: name of the model there.
        setting: "per_task" or "joint".
    """

    tables: tuple[str, ...]
    model: str
    setting: str


MethodPlan = MergePlan | SearchPlan


def merge_of(plan: MethodPlan) -> MergePlan:
    """A method's run, or that whose options are searched."""
    return plan.merge if isinstance(plan, SearchPlan) else plan


@dataclass(frozen=True)
class RowPlan:
    """One row.

    Attributes:
        label: stands at its left.
        method: its name in the file of published figures; None where none were published for this row.
        plan: the run, or the search for its options.
        table: whose figures it is compared with; None: those of the table's paper.
    """

    label: str
    method: str | None
    plan: MethodPlan
    table: str | None = None

    @property
    def merge(self) -> MergePlan:
        """The run, or that whose options are searched."""
        return merge_of(self.plan)

    @property
    def whole(self) -> bool:
        """Whether accuracies are shown as they are, for what others are measured by."""
        return self.merge.kind in ("zero_shot", "finetuned")


@dataclass(frozen=True)
class TablePlan:
    """One table.

    Attributes:
        experiment: its name and place.
        rows: from top to bottom.
        paper: what it is compared with; None for nothing.
        published: all published figures.
        costs: whether a sheet says what the merges cost.
        max_ranks: ranks that the merges are shortened to in that sheet.
    """

    experiment: Experiment
    rows: tuple[RowPlan, ...]
    paper: Paper | None
    published: Published
    costs: bool = False
    max_ranks: tuple[int, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Headers: hits where all classes are scored jointly, else the tasks and their average."""
        first = self.rows[0].merge
        if first.scoring.mode == "joint":
            return tuple(f"hits@{k}" for k in HITS)
        return (*first.suite.task_names, AVERAGE)


KEYS = ("name", "kind", "title", "paper", "common", "rows", "settings", "search", "costs", "max_ranks")
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
    rows = tuple(_parse_rows(values, parse_settings(values), compose))
    return TablePlan(
        experiment,
        rows,
        parse_paper(values["paper"]),
        published,
        costs=flag("experiment.costs", values["costs"]),
        max_ranks=_parse_ranks(values["max_ranks"]),
    )


def _parse_ranks(value: object) -> tuple[int, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise KnotsError(f"experiment.max_ranks={value!r}; a list of ranks is needed, as [16,8]")
    return tuple(whole("experiment.max_ranks", rank) for rank in value)


def parse_settings(values: Mapping[str, Any]) -> str | None:
    """The search that finds the options of an experiment's methods; None where published ones are taken."""
    settings = choice("experiment.settings", values["settings"], SETTINGS)
    return text("experiment.search", values["search"]) if settings == "search" else None


def parse_paper(values: object) -> Paper | None:
    """Which published figures a table is compared with."""
    if values is None:
        return None
    keys = ("tables", "model", "setting")
    if not isinstance(values, Mapping) or set(values) != set(keys):
        raise KnotsError(f"experiment.paper={values!r}; null, or a mapping with {', '.join(keys)}, is needed")
    tables = tuple(names_of("experiment.paper.tables", values["tables"]))
    return Paper(tables, *(text(f"experiment.paper.{key}", values[key]) for key in keys[1:]))


def _parse_rows(values: Mapping[str, Any], search: str | None, compose: Compose) -> Iterator[RowPlan]:
    """Rows are names of `conf/merge/`, or mappings that say more."""
    common = names_of("experiment.common", values["common"])
    given = values["rows"]
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise KnotsError(f"experiment.rows={given!r}; a list of methods is needed, as [ties,knots_ties]")
    for row in given:
        if isinstance(row, str):
            plan = parse_row(row, common, search, compose)
            yield RowPlan(_label(row, plan), row, plan)
            continue
        check_keys("experiment.rows", row, ("merge", "label", "published", "overrides"))
        method, label = (
            text("experiment.rows.merge", row["merge"]),
            text("experiment.rows.label", row["label"]),
        )
        further = names_of("experiment.rows.overrides", row["overrides"])
        known, table = _compared(method, row["published"])
        yield RowPlan(label, known, parse_row(method, [*common, *further], search, compose), table)


def _compared(method: str, value: object) -> tuple[str | None, str | None]:
    """The method whose published figures a row is compared with, and their table if not the paper's."""
    if isinstance(value, Mapping):
        check_keys("experiment.rows.published", value, ("table", "method"))
        table, method = (text(f"experiment.rows.published.{key}", value[key]) for key in ("table", "method"))
        return method, table
    return (method if flag("experiment.rows.published", value) else None), None


def _label(method: str, plan: MethodPlan) -> str:
    """How a method is called; an unmerged language model has heads that were trained: no zero-shot."""
    if method == "zero_shot" and merge_of(plan).suite.modality == "language":
        return "Base (own heads)"
    return LABELS.get(method, method)


def parse_row(method: str, common: Sequence[str], search: str | None, compose: Compose) -> MethodPlan:
    """One method's run; with a search for its options where there is something to search.

    Rules that look at data have no published options, and are run with those of their configuration.

    Args:
        method: a name of `conf/merge/`.
        common: overrides of `conf/merge.yaml`.
        search: a name of `conf/search/`; None for the published options.
        compose: composes the configuration.
    """
    plan = parse_merge(compose("merge", [*common, f"merge={method}"]))
    if search is None or plan.kind != "merged" or plan.calibration is not None:
        return plan
    return parse_search(compose("search", [*common, f"merge={method}", f"search={search}"]))
