"""Figures. Drawn without pyplot, so that nothing outlives the call and no display is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from knots.reporting.comparison import (
    BASE,
    HITS,
    Comparison,
    Metrics,
    Value,
    accuracy,
    average,
    has_joint,
    is_language,
    joint,
    majority,
)

# Okabe and Ito's palette, told apart by colour-blind readers; the three differ in brightness as well.
COLOURS = {
    "zero-shot": "#999999",
    BASE: "#999999",
    "fine-tuned": "#56B4E9",
    "merged": "#0072B2",
    "ensemble": "#D55E00",
    "single adapter": "#E69F00",
    "multi-task": "#009E73",
    "router": "#CC79A7",
}
GROUP = 0.84
"""Width of a group of bars; the rest of 1 is the gap to the next group."""


def result_figure(comparison: Comparison) -> Figure:
    """Accuracy of every task and their mean beside the baselines, and the joint hits at the right.

    Bars are accuracies in percent, whiskers 95 % intervals. Of sentences, a line across a task's bars is the
    share of its most frequent class.
    """
    panels = _panels(comparison)
    widths = [max(len(labels), 2) for _, labels, _ in panels]
    figure = Figure(figsize=(1.5 + 0.72 * sum(widths), 4.0), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axis, (title, labels, values) in zip(axes, panels, strict=True):
        _bars(axis, labels, values)
        axis.set_title(title, fontsize=10, loc="left")
    if is_language(comparison.metrics):
        _majority_lines(axes[0], comparison)
    axes[0].set_ylabel("accuracy or hits (%)" if len(panels) > 1 else "accuracy (%)")
    axes[0].set_ylim(0, 100)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.suptitle(comparison.title, x=0.01, ha="left", fontsize=12)
    return figure


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and PDF; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.pdf"]
    for path in paths:
        # A date in the file would make two equal runs differ.
        figure.savefig(path, metadata={"CreationDate": None} if path.suffix == ".pdf" else None)
    return paths


Panel = tuple[str, Sequence[str], Mapping[str, Sequence[Value]]]


def _panels(comparison: Comparison) -> list[Panel]:
    """(title, labels of the groups, series -> values) of what was measured."""
    series, tasks = comparison.series(), comparison.tasks
    panels: list[Panel] = []
    if average(comparison.metrics, "accuracy").percent is not None:
        own = {label: _own(metrics, tasks) for label, metrics in series.items()}
        panels.append(("each task among its own classes", [*tasks, "average"], own))
    if has_joint(comparison.metrics):
        hits = {
            label: [joint(metrics, f"hits@{k}") for k in HITS]
            for label, metrics in series.items()
            if has_joint(metrics)
        }
        classes = comparison.metrics["joint"]["classes"]
        panels.append((f"all {classes} classes jointly", [f"hits@{k}" for k in HITS], hits))
    return panels


def _own(metrics: Metrics, tasks: Sequence[str]) -> list[Value]:
    return [*(accuracy(metrics, task) for task in tasks), average(metrics, "accuracy")]


def _bars(axis: Axes, labels: Sequence[str], values: Mapping[str, Sequence[Value]]) -> None:
    """One group of bars a label, one bar a series."""
    width = GROUP / len(values)
    for place, (name, numbers) in enumerate(values.items()):
        left = [group - GROUP / 2 + (place + 0.5) * width for group in range(len(labels))]
        heights = [value.percent or 0.0 for value in numbers]
        axis.bar(left, heights, width * 0.94, label=name, color=COLOURS[name], zorder=2)
        if place == len(values) - 1:
            _write_heights(axis, left, numbers)
        axis.errorbar(left, heights, _whiskers(numbers), fmt="none", ecolor="black", elinewidth=0.8, zorder=3)
    axis.set_xticks(range(len(labels)), [label.replace("_", "\n") for label in labels], fontsize=9)
    axis.set_xlim(-0.6, len(labels) - 0.4)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6, zorder=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis="x", length=0)


def _majority_lines(axis: Axes, comparison: Comparison) -> None:
    """What the best constant answer reaches on each task."""
    shares = [majority(comparison.metrics, task).percent for task in comparison.tasks]
    left = [place - GROUP / 2 for place, share in enumerate(shares) if share is not None]
    heights = [share for share in shares if share is not None]
    right = [start + GROUP for start in left]
    axis.hlines(heights, left, right, colors="black", linestyles=":", label="majority class", zorder=4)


def _write_heights(axis: Axes, left: Sequence[float], numbers: Sequence[Value]) -> None:
    """Print the run's own numbers at the foot of its bars, out of the whiskers' way."""
    for place, value in zip(left, numbers, strict=True):
        if value.percent is not None and value.percent > 12:
            text = f"{value.percent:.0f}"
            axis.text(place, 2, text, ha="center", va="bottom", fontsize=7.5, color="white", zorder=4)


def _whiskers(numbers: Sequence[Value]) -> list[list[float]]:
    """Lower and upper arms; zero where there is no interval."""
    lower, upper = [], []
    for value in numbers:
        low, high = value.interval or (value.percent or 0.0, value.percent or 0.0)
        lower.append(max(0.0, (value.percent or 0.0) - low))
        upper.append(max(0.0, high - (value.percent or 0.0)))
    return [lower, upper]
