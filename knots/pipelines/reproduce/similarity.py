"""How alike the tasks' updates act, before and after aligning: Figure 2 of KnOTS (arXiv 2410.19735).

The comparison itself is an analysis (`knots.pipelines.analyze`); full fine-tunes to put beside the adapters
are loaded, or trained here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from knots.finetuning import parse_plan
from knots.pipelines.analyze import AnalysisPlan, parse_analysis
from knots.pipelines.reproduce.experiment import NOT_RUN, Compose, Experiment, Product
from knots.pipelines.reproduce.training import FullFinetunes, compare
from knots.pipelines.values import check_keys, names_of
from knots.reporting.published import Published
from knots.reporting.sheets import Row, Sheet

KEYS = ("name", "kind", "title", "common", "train")


@dataclass(frozen=True)
class SimilarityPlan:
    """One comparison.

    Attributes:
        experiment: its name and place.
        analysis: what is compared.
        full: full fine-tunes that are trained for it; None where they are there.
    """

    experiment: Experiment
    analysis: AnalysisPlan
    full: FullFinetunes | None


def parse_similarity(
    experiment: Experiment, values: Mapping[str, Any], compose: Compose, published: Published
) -> SimilarityPlan:
    """Read the configuration of a comparison.

    Args:
        experiment: its name and place.
        values: plain values with the keys of a file of this kind in `conf/experiment/`.
        compose: composes the configurations of analysis and training.
        published: not looked at: no numbers of this figure were seen.

    Raises:
        KnotsError: a key is unknown or a value has the wrong type; or as `parse_analysis` and `parse_plan`.
    """
    del published
    check_keys("experiment", values, KEYS)
    common = names_of("experiment.common", values["common"])
    if values["train"] is None:
        analysis = parse_analysis(compose("analyze", common))
        return SimilarityPlan(experiment, analysis, None)
    config = compose("finetune", names_of("experiment.train", values["train"]))
    folder = Path(config["folder"]).expanduser()
    analysis = parse_analysis(compose("analyze", [*common, f'full.adapters="{folder}/{{task}}"']))
    return SimilarityPlan(experiment, analysis, FullFinetunes(parse_plan(config["finetune"]), folder))


def run_similarity(plan: SimilarityPlan, console: Console) -> Product:
    """Train what is missing, compare, and show the comparison's own tables and figures."""
    product = Product()
    analysis = partial(compare, plan.analysis, plan.full, "full fine-tunes", console, run=plan.experiment.run)
    found = product.attempt("analysis", analysis)
    if found is None:
        reason = product.failures.get("analysis", NOT_RUN)
        row = Row("mean CKA between two tasks", (), reason)
        product.sheets.append(Sheet(plan.experiment.name, plan.experiment.title, (), (row,)))
        return product
    product.sheets.extend(Sheet.from_json(sheet) for sheet in found.metrics["sheets"])
    product.notes.extend(found.metrics["notes"])
    product.runs.append(found.run_id)
    for figure in found.metrics["figures"]:
        product.copies[found.folder / figure["file"]] = figure["caption"]
    return product
