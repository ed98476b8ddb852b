"""What the paper's experiments share: what is run or found, and the folder with tables and figures."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.figure import Figure
from rich.console import Console

from knots.drafts import writing
from knots.errors import KnotsError
from knots.pipelines.bench import workshop_for
from knots.pipelines.merge import Outcome, finished_outcome, run_merge
from knots.pipelines.plans import MergePlan
from knots.pipelines.search.plan import SearchPlan
from knots.pipelines.search.run import SearchOutcome, finished_search, run_search
from knots.pipelines.workshop import Workshop
from knots.reporting.figures import save_figure
from knots.reporting.render import write_sheet
from knots.reporting.sheets import Sheet
from knots.runs import Run, find_run, run_id

log = logging.getLogger(__name__)

Result = TypeVar("Result")

NOT_RUN = "not run"

Compose = Callable[[str, Sequence[str]], dict[str, Any]]
"""(primary configuration, overrides) -> the composed configuration as plain values."""


@dataclass(frozen=True)
class Experiment:
    """What an experiment is called and where it goes.

    Attributes:
        name: of its file in `conf/experiment/`.
        title: what it shows.
        root: the root of all run folders.
        config: the whole configuration, kept with the result.
        run: False shows what is there and runs nothing.
    """

    name: str
    title: str
    root: Path
    config: Mapping[str, Any]
    run: bool = True


@dataclass(frozen=True)
class Picture:
    """A figure and what it shows."""

    figure: Figure
    caption: str


@dataclass
class Product:
    """What an experiment found, as it grows.

    Attributes:
        sheets: its tables.
        details: further tables, which are kept and not printed.
        pictures: name of the file -> figure.
        copies: PNG file of another run's figure, with a PDF beside it -> its caption.
        notes: what a reader must know.
        runs: ids of the runs that the numbers come from.
        failures: what was to be run -> why it was not.
        outcomes: the runs with their baselines, for loggers.
        varying: names of sheets whose numbers differ each time they are measured, as seconds do.
    """

    sheets: list[Sheet] = field(default_factory=list)
    details: list[Sheet] = field(default_factory=list)
    pictures: dict[str, Picture] = field(default_factory=dict)
    copies: dict[Path, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    varying: set[str] = field(default_factory=set)

    def took(self, outcome: Outcome) -> None:
        """Note the runs that a number comes from."""
        self.outcomes.append(outcome)
        self.named(*outcome.baselines.values(), outcome.run)

    def named(self, *runs: Run) -> None:
        """Note runs that loggers are not told of: one of many behind a number."""
        for run in runs:
            if run.run_id not in self.runs:
                self.runs.append(run.run_id)

    def attempt(self, label: str, make: Callable[[], Result]) -> Result | None:
        """What `make` gives; None, with the reason noted, where it fails by what a user can mend."""
        try:
            return make()
        except KnotsError as error:
            log.error("%s: %s", label, error)
            self.failures[label] = str(error)
            return None


class Runner:
    """Runs what is missing, or only looks; the runs of one model and suite share what they load."""

    def __init__(self, experiment: Experiment, console: Console) -> None:
        self.experiment, self.console = experiment, console
        self._shops: list[Workshop] = []

    def shop(self, plan: MergePlan) -> Workshop:
        """What this plan's run shares with those before it."""
        for shop in self._shops:
            same = (shop.plan, shop.precision, shop.data, shop.cache_dir)
            if same == (plan.model, plan.scoring.precision, plan.data, plan.cache_dir):
                return shop.over(plan.suite)
        self._shops.append(workshop_for(plan))
        return self._shops[-1]

    def forget(self) -> None:
        """Let go of what runs share: those to come are of another model or other adapters."""
        self._shops.clear()

    def merge(self, plan: MergePlan) -> Outcome | None:
        """A run with its baselines; None where it is not there and nothing is to be run."""
        if self.experiment.run:
            return run_merge(plan, self.console, self.shop(plan))
        return finished_outcome(plan, self.shop(plan))

    def search(self, plan: SearchPlan) -> SearchOutcome | None:
        """A search with its tests; likewise."""
        if self.experiment.run:
            return run_search(plan, self.console, self.shop(plan.merge))
        return finished_search(plan, self.shop(plan.merge))


def keep(experiment: Experiment, product: Product) -> Run:
    """Write tables and figures into a folder of their own below the experiment's name.

    The folder's id follows from the tables: another one where a number has changed or been added, and the
    same folder as before where none has. Of sheets that vary only their presence counts.
    """
    every = [*product.sheets, *product.details]
    sheets = [sheet.to_json() for sheet in every]
    fixed = [sheet for sheet in sheets if sheet["name"] not in product.varying]
    identity = {"kind": "experiment", "experiment": experiment.name, "sheets": fixed, "runs": product.runs}
    if product.varying:
        identity["varying"] = sorted(product.varying)
    name, root = run_id(identity), experiment.root / experiment.name
    found = find_run(root, name)
    if found is not None and not experiment.config.get("force"):
        return found
    with writing(root, name, config=experiment.config, identity=identity) as draft:
        for sheet in every:
            write_sheet(sheet, draft.folder / "tables")
        figures = _keep_figures(product, draft.folder / "figures")
        draft.metrics |= {
            "schema": 1,
            "record": "experiment",
            "experiment": experiment.name,
            "title": experiment.title,
            "sheets": sheets,
            "figures": figures,
            "runs": product.runs,
            "notes": [*product.notes, *_told(product.failures)],
        }
    return Run(root / name, draft.metrics, fresh=True)


def _keep_figures(product: Product, folder: Path) -> list[dict[str, str]]:
    """Write the figures, each as PNG and PDF; returns what the record says of them."""
    figures = []
    for file, picture in product.pictures.items():
        save_figure(picture.figure, folder, file)
        figures.append({"file": f"figures/{file}.png", "caption": picture.caption})
    for path, caption in product.copies.items():
        folder.mkdir(exist_ok=True)
        for suffix in (".png", ".pdf"):
            shutil.copyfile(path.with_suffix(suffix), folder / path.with_suffix(suffix).name)
        figures.append({"file": f"figures/{path.name}", "caption": caption})
    return figures


def _told(failures: Mapping[str, str]) -> Sequence[str]:
    return [f"{label} could not be run: {reason}" for label, reason in failures.items()]
