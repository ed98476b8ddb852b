"""What an analysis leaves behind: its record, tables of every number, sheets and figures.

In the record shares are fractions and what is not defined is null. CKA is undefined for a representation that
does not vary over the items, and what concerns the direction of a zero update is, too.

Shapes: T tasks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Group, RenderableType
from rich.text import Text
from torch import Tensor

from knots.analysis.activations import Cka, Similarities
from knots.analysis.geometry import Geometry, model_geometry
from knots.analysis.signs import SignConflicts
from knots.pipelines.analyze.figures import draw_figures
from knots.pipelines.analyze.findings import (
    ANGLES,
    MEASURES,
    Findings,
    number_or_none,
    off_diagonal,
    plain_values,
    sign_shares,
)
from knots.pipelines.analyze.plan import ESTIMATORS, AnalysisPlan
from knots.pipelines.analyze.sheets import analysis_sheets
from knots.reporting.render import text, write_sheet
from knots.reporting.sheets import Sheet
from knots.runs import Run

WHOLE = "(model)"
"""What stands for a module where a number is of the whole model."""


def write_record(plan: AnalysisPlan, findings: Findings, folder: Path) -> dict[str, Any]:
    """Write tables and figures into a folder; returns what `metrics.json` is to hold."""
    panels = {name: _panel(found, plan) for name, found in findings.similarities.panels.items()}
    sheets = analysis_sheets(plan, findings, panels)
    for sheet in sheets:
        write_sheet(sheet, folder / "tables")
    _cka_frame(plan, findings.similarities).to_csv(folder / "cka.csv", index=False)
    _geometry_frame(plan, findings).to_csv(folder / "geometry.csv", index=False)
    record = {
        "schema": 1,
        "record": "analysis",
        "title": f"{plan.model.name} on {plan.suite.name}: updates of {len(plan.suite.tasks)} tasks compared",
        "model": plan.model.name,
        "suite": plan.suite.name,
        "tasks": list(plan.suite.task_names),
        "panels": panels,
        "geometry": {kind: _whole(found) for kind, found in findings.geometry.items()},
        "signs": {space: _sign_numbers(found) for space, found in findings.signs.items()},
        "options": {
            **plan.options.to_json(),
            "items_in_all": findings.items,
            "rows": findings.similarities.rows,
        },
        "sheets": [sheet.to_json() for sheet in sheets],
        "figures": draw_figures(plan, findings, panels, folder / "figures"),
        "notes": list(_notes(plan, findings)),
    }
    # As those find it who read it later: with lists where sheets have tuples.
    plain: dict[str, Any] = json.loads(json.dumps(record, allow_nan=False))
    return plain


def _panel(modules: Mapping[str, Cka], plan: AnalysisPlan) -> dict[str, Any]:
    """One panel's matrices by the chosen estimator, and what the other one gives in the mean."""
    chosen = plan.options.estimator
    (other,) = (name for name in ESTIMATORS if name != chosen)
    mean = _mean_cka(modules, chosen)
    return {
        "cka": plain_values(mean),
        "per_module": {module: plain_values(getattr(found, chosen)) for module, found in modules.items()},
        "mean_off_diagonal": number_or_none(off_diagonal(mean)),
        other: {"mean_off_diagonal": number_or_none(off_diagonal(_mean_cka(modules, other)))},
    }


def _mean_cka(modules: Mapping[str, Cka], estimator: str) -> Tensor:
    """The mean over the modules where there is a CKA, [T, T]."""
    return torch.stack([getattr(found, estimator) for found in modules.values()]).nanmean(dim=0)


def _whole(modules: Mapping[str, Geometry]) -> dict[str, Any]:
    """Numbers of the model, and those of one number a task of each module."""
    whole = model_geometry(modules)
    return {
        **{name: plain_values(getattr(whole, name)) for name in (*MEASURES, *ANGLES)},
        "mean_off_diagonal": {name: number_or_none(off_diagonal(getattr(whole, name))) for name in ANGLES},
        "per_module": {
            module: {name: plain_values(getattr(found, name)) for name in MEASURES}
            for module, found in modules.items()
        },
    }


def _sign_numbers(found: SignConflicts) -> dict[str, Any]:
    return {
        "entries": found.entries,
        "all": sign_shares(found.every),
        "trimmed": sign_shares(found.trimmed),
        "per_module": {module: number_or_none(counts.conflict) for module, counts in found.modules.items()},
    }


def _notes(plan: AnalysisPlan, findings: Findings) -> Iterator[str]:
    """What a reader of the record must know."""
    panels = findings.similarities.panels
    if "full" not in panels:
        yield "no full fine-tunes were given (full=...), so their panel is left out"
    elif plan.full is not None:
        count = len(panels["full"])
        place = plan.full.adapters
        yield f"full fine-tunes ({place}) are compared in the {count} modules that the adapters touch"
    for name, modules in panels.items():
        values = [getattr(found, plan.options.estimator) for found in modules.values()]
        empty = sum(bool(matrix.isnan().any()) for matrix in values)
        if empty:
            yield (
                f"{name}: in {empty} of {len(modules)} modules some tasks have no CKA, since what is "
                "compared does not vary over the items; means are over the others"
            )


def _cka_frame(plan: AnalysisPlan, found: Similarities) -> pd.DataFrame:
    """One row a panel, module and pair of tasks."""
    tasks = plan.suite.task_names
    rows = [
        (panel, module, tasks[i], tasks[j], float(cka.biased[i, j]), float(cka.debiased[i, j]))
        for panel, modules in found.panels.items()
        for module, cka in modules.items()
        for i in range(len(tasks))
        for j in range(i)
    ]
    return pd.DataFrame(rows, columns=["panel", "module", "task", "other", "biased", "debiased"])


def _geometry_frame(plan: AnalysisPlan, findings: Findings) -> pd.DataFrame:
    """One row a number: of a task (without `other`) or of a pair of tasks, in a module or the whole model."""
    tasks = plan.suite.task_names
    rows: list[tuple[str, str, str, str, str | None, float]] = []
    for kind, modules in findings.geometry.items():
        for module, found in {WHOLE: model_geometry(modules), **modules}.items():
            for name, measure in MEASURES.items():
                values = getattr(found, name).tolist()
                rows += [(kind, module, measure, t, None, v) for t, v in zip(tasks, values, strict=True)]
            for name, measure in ANGLES.items():
                pairs = getattr(found, name).tolist()
                rows += [
                    (kind, module, measure, tasks[i], tasks[j], pairs[i][j])
                    for i in range(len(tasks))
                    for j in range(i)
                ]
    return pd.DataFrame(rows, columns=["updates", "module", "measure", "task", "other", "value"])


def record_view(run: Run) -> RenderableType:
    """A finished analysis for the terminal: its tables and its notes."""
    sheets = [text(Sheet.from_json(sheet)) for sheet in run.metrics["sheets"]]
    spaced = [part for sheet in sheets for part in (Text(), sheet)]
    notes = [Text(f"note: {note}") for note in run.metrics["notes"]]
    return Group(*spaced, Text(), *notes)
