"""An analysis as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from knots.analysis.geometry import Geometry, model_geometry
from knots.pipelines.analyze.findings import (
    ANGLES,
    LABELS,
    MEASURES,
    Findings,
    inputs_in_words,
    number_or_none,
    off_diagonal,
    sign_shares,
)
from knots.pipelines.analyze.plan import ESTIMATORS, AnalysisPlan
from knots.reporting.sheets import Cell, Row, Sheet


def analysis_sheets(plan: AnalysisPlan, findings: Findings, panels: Mapping[str, Any]) -> list[Sheet]:
    """CKA, sizes, angles and signs, each a mean or a total over the model.

    Args:
        plan: what was looked at.
        findings: what was found.
        panels: of the record.
    """
    kinds = findings.geometry
    return [
        _cka_sheet(plan, findings, panels),
        *(_size_sheet(plan, kind, found) for kind, found in kinds.items()),
        _angle_sheet(findings),
        *([_sign_sheet(plan, findings)] if findings.signs else []),
    ]


def _cka_sheet(plan: AnalysisPlan, findings: Findings, panels: Mapping[str, Any]) -> Sheet:
    chosen = plan.options.estimator
    (other,) = (name for name in ESTIMATORS if name != chosen)
    means = {
        chosen: [panel["mean_off_diagonal"] for panel in panels.values()],
        other: [panel[other]["mean_off_diagonal"] for panel in panels.values()],
    }
    return Sheet(
        name="cka",
        title=f"{plan.model.name} on {plan.suite.name}: mean CKA of two tasks (0 to 1)",
        columns=tuple(LABELS[name] for name in panels),
        rows=tuple(Row(name, tuple(map(Cell, numbers))) for name, numbers in means.items()),
        notes=(inputs_in_words(plan, findings),),
        decimals=3,
    )


def _size_sheet(plan: AnalysisPlan, kind: str, modules: Mapping[str, Geometry]) -> Sheet:
    whole = model_geometry(modules)
    columns = [getattr(whole, name) for name in MEASURES]
    rows = [
        Row(task, tuple(Cell(number_or_none(float(values[place]))) for values in columns))
        for place, task in enumerate(plan.suite.task_names)
    ]
    return Sheet(
        name=f"updates_{kind}",
        title=f"Updates ({kind}): Frobenius norm over {len(modules)} modules, ranks as means over modules",
        columns=tuple(MEASURES.values()),
        rows=(*rows, Row("mean", tuple(Cell(number_or_none(float(v.nanmean()))) for v in columns))),
        decimals=2,
    )


def _angle_sheet(findings: Findings) -> Sheet:
    rows = []
    for kind, modules in findings.geometry.items():
        whole = model_geometry(modules)
        cells = (Cell(number_or_none(off_diagonal(getattr(whole, name)))) for name in ANGLES)
        rows.append(Row(kind, tuple(cells)))
    return Sheet(
        name="angles",
        title="Mean over pairs of tasks (cosine -1 to 1, overlaps 0 to 1)",
        columns=tuple(ANGLES.values()),
        rows=tuple(rows),
        notes=("overlap: mean squared cosine of principal angles; 1 for updates of full rank",),
        decimals=3,
    )


def _sign_sheet(plan: AnalysisPlan, findings: Findings) -> Sheet:
    names = ("conflict", "pairwise", "cancelled")
    rows = []
    for space, found in findings.signs.items():
        numbers = [sign_shares(counts)[name] for counts in (found.every, found.trimmed) for name in names]
        rows.append(Row(space, tuple(Cell(None if n is None else 100 * n) for n in numbers)))
    tasks, density = len(plan.suite.tasks), plan.options.density
    return Sheet(
        name="signs",
        title=f"Conflicts of signs of {plan.model.updates} updates in the coordinates of a space, in percent",
        columns=(*names, *(f"{name}, trimmed" for name in names)),
        rows=tuple(rows),
        notes=(
            "conflict: entries of two tasks or more whose signs do not all agree; of random signs "
            f"{100 * (1 - 2 ** (1 - tasks)):.1f}",
            "pairwise: the same for two tasks, a mean over pairs; of random signs 50",
            "cancelled: the share of the absolute sum that a sum over tasks loses",
            f"trimmed: among each task's largest entries over the model, density {density:g}",
        ),
    )
