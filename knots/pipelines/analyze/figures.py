"""The figures of an analysis: heat maps of pairs of tasks, and CKA by layer, each with its caption below."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from knots.analysis.activations import Cka
from knots.analysis.geometry import model_geometry
from knots.pipelines.analyze.findings import ANGLES, LABELS, Findings, inputs_in_words, off_diagonal
from knots.pipelines.analyze.plan import AnalysisPlan
from knots.reporting.charts import heatmaps, lines_with_bands
from knots.reporting.figures import save_figure

LAYER = re.compile(r"(?:^|\.)(\d+)\.")
"""The number of its layer in a module's name."""


def draw_figures(
    plan: AnalysisPlan, findings: Findings, panels: Mapping[str, Any], folder: Path
) -> list[dict[str, str]]:
    """Draw and save the figures; returns their files and captions.

    Args:
        plan: what was looked at.
        findings: what was found.
        panels: of the record.
        folder: where images go.
    """
    drawn = {
        "cka": _cka_figure(plan, findings, panels),
        "layers": _layer_figure(plan, findings),
        "angles": _angle_figure(plan, findings),
    }
    listed = []
    for name, found in drawn.items():
        if found is not None:
            figure, caption = found
            _save(figure, caption, folder, name)
            listed.append({"file": f"figures/{name}.png", "caption": caption})
    return listed


def _cka_figure(plan: AnalysisPlan, findings: Findings, panels: Mapping[str, Any]) -> tuple[Figure, str]:
    """Figure 2 of arXiv 2410.19735."""
    caption = f"Linear CKA ({plan.options.estimator}) of two tasks. {inputs_in_words(plan, findings)}."
    if "full" not in panels:
        caption += " The panel of full fine-tunes is left out: none were given (full=...)."
    ckas = {f"{LABELS[name]}\n{_in_words(panel)}": _matrix(panel["cka"]) for name, panel in panels.items()}
    return heatmaps(ckas, plan.suite.task_names, title=_where(plan), limits=(0, 1), caption="CKA"), caption


def _layer_figure(plan: AnalysisPlan, findings: Findings) -> tuple[Figure, str] | None:
    """The mean CKA of pairs by depth; None where modules have no numbers of layers, or there is one layer."""
    series = {
        LABELS[name]: _by_layer(modules, plan.options.estimator)
        for name, modules in findings.similarities.panels.items()
    }
    layers = sorted({int(layer) for points in series.values() for layer, *_ in points})
    if len(layers) < 2:
        return None
    figure = lines_with_bands(
        series,
        title=_where(plan),
        xlabel="layer",
        ylabel="mean CKA of two tasks",
        xticks=layers,
        remark="bands: from the lowest to the highest module of a layer",
    )
    for legend in list(figure.legends):
        legend.remove()  # it would stand where the caption goes
    figure.axes[0].legend(frameon=False, fontsize=9)
    figure.axes[0].set_ylim(0, 1)
    caption = (
        f"Linear CKA ({plan.options.estimator}) by layer: means over pairs of tasks and modules. "
        f"{inputs_in_words(plan, findings)}."
    )
    return figure, caption


def _by_layer(modules: Mapping[str, Cka], estimator: str) -> list[tuple[float, float, float, float]]:
    """(layer, mean, lowest, highest) over the modules of a layer that have a CKA."""
    values: dict[int, list[float]] = {}
    for module, found in modules.items():
        number, mean = LAYER.search(module), off_diagonal(getattr(found, estimator))
        if number and mean == mean:  # not NaN
            values.setdefault(int(number[1]), []).append(mean)
    return [(layer, sum(v) / len(v), min(v), max(v)) for layer, v in sorted(values.items())]


def _angle_figure(plan: AnalysisPlan, findings: Findings) -> tuple[Figure, str]:
    kind = plan.model.updates
    whole = model_geometry(findings.geometry[kind])
    angles = {name: getattr(whole, field).numpy() for field, name in ANGLES.items()}
    caption = (
        f"Angles between the {kind} updates of two tasks: cosine over the model; overlap of column and of "
        "row spaces (mean squared cosine of principal angles), mean over modules."
    )
    labels = plan.suite.task_names
    return heatmaps(angles, labels, title=_where(plan), limits=(0, 1), caption="cosine or overlap"), caption


def _save(figure: Figure, caption: str, folder: Path, name: str) -> None:
    """Save a figure with its caption below it."""
    lines = fill(caption, int(15 * figure.get_figwidth()))
    inches = 0.1 + 0.16 * (1 + lines.count("\n"))
    height = figure.get_figheight() + inches + 0.3  # heat maps are square, and would touch what is around
    figure.set_figheight(height)
    layout = figure.get_layout_engine()
    assert isinstance(layout, ConstrainedLayoutEngine)
    layout.set(rect=(0, inches / height, 1, 1 - inches / height))
    figure.text(0.01, 0.05 / height, lines, ha="left", va="bottom", fontsize=8)
    save_figure(figure, folder, name)


def _where(plan: AnalysisPlan) -> str:
    return f"{plan.model.name} on {plan.suite.name}"


def _in_words(panel: Mapping[str, Any]) -> str:
    mean = panel["mean_off_diagonal"]
    return "no pair has a CKA" if mean is None else f"mean of pairs {mean:.3f}"


def _matrix(values: list[list[float | None]]) -> list[list[float]]:
    """The other way round, for figures."""
    return [[float("nan") if value is None else value for value in row] for row in values]
