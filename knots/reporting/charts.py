"""Charts of several methods or many trials. Drawn without pyplot, as `knots.reporting.figures`.

Numbers are percent where a label does not say otherwise. A value that was not measured leaves a gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, isfinite, nan
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from knots.reporting.comparison import Value

# Okabe and Ito's palette without yellow, which is too light for lines on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999")
MARKERS = "osD^vPX*"
GROUP = 0.84
"""Width of a group of bars; the rest of 1 is the gap to the next group."""

OPTIONS = {
    "scale": "scale (multiplier of the update)",
    "density": "density (fraction kept)",
    "drop": "drop (fraction zeroed)",
}
"""Labels of the options' axes, with their units; other names stand for themselves."""

Point = tuple[float, float, float | None, float | None]


def bars(
    values: Mapping[str, Sequence[Value]],
    labels: Sequence[str],
    *,
    title: str,
    ylabel: str,
    remark: str = "whiskers: 95 % intervals",
) -> Figure:
    """A group of bars a label, one bar a series, with whiskers to the ends of their intervals.

    Args:
        values: series -> one value a label.
        labels: of the groups, as the tasks.
        title: stands above.
        ylabel: what the values are, with their unit.
        remark: what the intervals are; shown where there are any.
    """
    inches = 1.2 + len(labels) * max(0.75, 0.17 * len(values))
    figure = _figure(max(5.0, inches), 4.2, title)
    axis = figure.subplots()
    width = GROUP / len(values)
    for place, (name, numbers) in enumerate(values.items()):
        left = np.arange(len(labels)) - GROUP / 2 + (place + 0.5) * width
        heights = [nan if value.percent is None else value.percent for value in numbers]
        axis.bar(left, heights, width * 0.92, label=name, color=_colour(place), zorder=2)
        arms = np.array([_arms(value) for value in numbers]).T
        axis.errorbar(left, heights, arms, fmt="none", ecolor="#333333", elinewidth=0.8, zorder=3)
    axis.set_xticks(range(len(labels)), [label.replace("_", "\n") for label in labels], fontsize=9)
    axis.set_xlim(-0.6, len(labels) - 0.4)
    axis.tick_params(axis="x", length=0)
    axis.set_ylabel(ylabel)
    _plain_axis(axis)
    _legend(figure, axis, int(figure.get_figwidth() / 1.6))
    if any(value.interval for numbers in values.values() for value in numbers):
        _remark(axis, remark)
    return figure


def heatmaps(
    panels: Mapping[str, ArrayLike],
    labels: Sequence[str],
    *,
    title: str,
    limits: tuple[float, float],
    caption: str = "",
) -> Figure:
    """Square matrices side by side, each number in its cell, all on one scale of colours.

    Args:
        panels: title -> matrix [len(labels), len(labels)]; NaN where there is no number.
        labels: of rows and columns.
        title: stands above.
        limits: values of the darkest and the brightest colour.
        caption: says what the scale of colours means, at its side.
    """
    side = max(2.4, 0.42 * len(labels) + 0.4)
    figure = _figure(1.9 + (side + 0.25) * len(panels), side + 1.5, title)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (name, matrix) in zip(axes, panels.items(), strict=True):
        numbers = np.asarray(matrix, dtype=np.float64)
        image = axis.imshow(numbers, cmap="viridis", vmin=limits[0], vmax=limits[1])
        axis.set_title(name, fontsize=10)
        axis.set_xticks(range(len(labels)), labels, rotation=60, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(labels)), labels)
        axis.tick_params(length=0, labelsize=8)
        axis.spines[:].set_visible(False)
        _write_numbers(axis, numbers, limits)
    figure.colorbar(image, ax=list(axes), label=caption, fraction=0.04, pad=0.02, shrink=0.8)
    return figure


def search_curves(
    trials: Sequence[Mapping[str, Any]],
    *,
    title: str,
    ylabel: str,
    chosen: Mapping[str, float] | None = None,
) -> Figure:
    """What a search tried: the value against each option it varied, and the best so far.

    Args:
        trials: mappings with `order` (from 0 or 1), `options` (name -> number), `value` and `seed`.
        title: stands above.
        ylabel: what was maximized, with its unit.
        chosen: the options that were kept, which are marked with a ring.
    """
    ordered = sorted(trials, key=lambda trial: int(trial["order"]))
    varied = [name for name in _names(ordered) if len({_option(trial, name) for trial in ordered}) > 1]
    figure = _figure(2.0 + 3.0 * (len(varied) + 1), 3.8, title)
    axes = figure.subplots(1, len(varied) + 1, squeeze=False, sharey=True)[0]
    for axis, name in zip(axes[:-1], varied, strict=True):
        _option_panel(axis, ordered, name, varied)
        _ring(axis, [(_option(trial, name), trial["value"]) for trial in _kept(ordered, chosen)])
    _progress_panel(axes[-1], ordered)
    _ring(axes[-1], [(trial["order"], trial["value"]) for trial in _kept(ordered, chosen)])
    axes[0].set_ylabel(ylabel)
    for axis in axes:
        _plain_axis(axis)
    handles = {
        name: handle for axis in axes for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False
    )
    return figure


def lines_with_bands(
    series: Mapping[str, Sequence[Point]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    log: bool = False,
    xticks: Sequence[float] | None = None,
    remark: str = "bands: 95 % intervals",
) -> Figure:
    """A line a series with its interval as a band.

    Args:
        series: name -> (x, mean, low, high); low and high None where there is no interval.
        title: stands above.
        xlabel: what x is, with its unit.
        ylabel: what the means are, with their unit.
        log: a logarithmic x.
        xticks: the only values of x that are marked.
        remark: what the intervals are; shown where there are any.
    """
    figure = _figure(6.4, 4.4, title)
    axis = figure.subplots()
    for place, (name, points) in enumerate(series.items()):
        x, mean, low, high = np.array(sorted(points, key=lambda point: point[0]), dtype=np.float64).T
        marker = MARKERS[place % len(MARKERS)]
        axis.plot(x, mean, label=name, color=_colour(place), marker=marker, markersize=5, zorder=3)
        axis.fill_between(x, low, high, color=_colour(place), alpha=0.15, linewidth=0, zorder=2)
    if log:
        axis.set_xscale("log", base=2)
    if xticks is not None:
        axis.set_xticks(xticks, [f"{value:g}" for value in xticks])
        axis.minorticks_off()
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    _plain_axis(axis)
    _legend(figure, axis, 4)
    if any(point[2] is not None for points in series.values() for point in points):
        _remark(axis, remark)
    return figure


def _figure(width: float, height: float, title: str) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return figure


def _colour(place: int) -> str:
    return PALETTE[place % len(PALETTE)]


def _plain_axis(axis: Axes) -> None:
    axis.grid(axis="y", color="#dddddd", linewidth=0.6, zorder=0)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, axis: Axes, columns: int) -> None:
    handles, names = axis.get_legend_handles_labels()
    columns = max(1, min(len(names), columns))
    columns = ceil(len(names) / ceil(len(names) / columns))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def _remark(axis: Axes, text: str) -> None:
    axis.set_title(text, loc="right", fontsize=8, color="#555555")


def _arms(value: Value) -> tuple[float, float]:
    """Lower and upper arm of a whisker; zero where there is no interval."""
    if value.percent is None or value.interval is None:
        return 0.0, 0.0
    low, high = value.interval
    return max(0.0, value.percent - low), max(0.0, high - value.percent)


def _write_numbers(
    axis: Axes, numbers: np.ndarray[Any, np.dtype[np.float64]], limits: tuple[float, float]
) -> None:
    """Each number in its cell, white where the colour is dark."""
    middle = (limits[0] + limits[1]) / 2
    digits = 0 if limits[1] > 10 else 2
    for (row, column), number in np.ndenumerate(numbers):
        if isfinite(number):
            colour = "white" if number < middle else "black"
            text = f"{number:.{digits}f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)


def _names(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for trial in trials for name in trial["options"]))


def _option(trial: Mapping[str, Any], name: str) -> float:
    value = trial["options"].get(name)
    return nan if value is None else float(value)


def _option_panel(axis: Axes, trials: Sequence[Mapping[str, Any]], name: str, varied: Sequence[str]) -> None:
    """The value of every trial against one option; trials that are alike otherwise are joined."""
    alike: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for trial in trials:
        others = (trial.get("seed"), *(_option(trial, other) for other in varied if other != name))
        alike.setdefault(others, []).append((_option(trial, name), trial["value"]))
    for points in alike.values():
        x, y = np.array(sorted(points)).T
        axis.plot(x, y, color=PALETTE[0], linewidth=0.8, alpha=0.45, zorder=2)
        axis.scatter(x, y, s=16, color=PALETTE[0], linewidths=0, label="a trial", zorder=3)
    axis.set_xlabel(OPTIONS.get(name, name))


def _progress_panel(axis: Axes, trials: Sequence[Mapping[str, Any]]) -> None:
    """Values in the order in which they were found, and the best of them so far."""
    order = [trial["order"] for trial in trials]
    found = np.array([trial["value"] for trial in trials], dtype=np.float64)
    axis.scatter(order, found, s=16, color=PALETTE[0], linewidths=0, label="a trial", zorder=3)
    best = np.fmax.accumulate(found)
    axis.step(order, best, where="post", color=PALETTE[1], linewidth=1.6, label="best so far", zorder=2)
    axis.set_xlabel("evaluations, in their order")
    axis.set_xlim(min(order) - 0.5, max(order) + 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _kept(trials: Sequence[Mapping[str, Any]], chosen: Mapping[str, float] | None) -> list[Mapping[str, Any]]:
    """The best trial with the chosen options."""
    if chosen is None:
        return []
    names = [name for name in _names(trials) if name in chosen and chosen[name] is not None]
    same = [
        trial for trial in trials if all(abs(_option(trial, name) - chosen[name]) < 1e-9 for name in names)
    ]
    return [max(same, key=lambda trial: float(trial["value"]))] if same else []


def _ring(axis: Axes, points: Sequence[tuple[float, float]]) -> None:
    for x, y in points:
        label = "chosen"
        axis.scatter(
            [x], [y], s=110, facecolors="none", edgecolors="black", linewidths=1.4, label=label, zorder=4
        )
