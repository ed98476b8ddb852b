"""Estimates with their intervals around zero. Drawn without pyplot, as `knots.reporting.figures`."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from knots.reporting.charts import PALETTE
from knots.reporting.comparison import Value

STRAIGHT = 1.0
"""Up to here the axis is linear, beyond it logarithmic: gaps of a point and of sixty on one axis."""

TICKS = (-50, -20, -10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10, 20, 50)


def forest(
    estimates: Mapping[str, Value], *, published: Mapping[str, float | None], title: str, xlabel: str
) -> Figure:
    """A point and its interval a line, from top to bottom, with a cross where a number was published.

    Args:
        estimates: label -> estimate and interval; one without a number leaves its line empty.
        published: label -> published number in the same unit, or None.
        title: stands above.
        xlabel: what the estimates are, with their unit.
    """
    figure = Figure(figsize=(7.6, 1.5 + 0.42 * len(estimates)), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    axis = figure.subplots()
    axis.axvline(0, color="#555555", linewidth=0.8, zorder=1)
    for place, (label, value) in enumerate(estimates.items()):
        if value.percent is not None:
            low, high = value.interval or (value.percent, value.percent)
            axis.plot([low, high], [place, place], color=PALETTE[0], linewidth=1.8, zorder=2)
            axis.plot([value.percent], [place], "o", color=PALETTE[0], label="measured here", zorder=3)
        other = published.get(label)
        if other is not None:
            axis.plot([other], [place], "x", color=PALETTE[1], markersize=7, label="published", zorder=4)
    axis.set_yticks(range(len(estimates)), list(estimates))
    axis.set_ylim(len(estimates) - 0.4, -0.6)
    _scale(axis, estimates, published)
    axis.set_xlabel(xlabel)
    axis.grid(axis="x", color="#dddddd", linewidth=0.6, zorder=0)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False, fontsize=9
    )
    return figure


def _scale(axis: Axes, estimates: Mapping[str, Value], published: Mapping[str, float | None]) -> None:
    ends = [end for value in estimates.values() for end in (value.interval or ())]
    ends += [value for value in published.values() if value is not None]
    most = max(map(abs, ends), default=STRAIGHT)
    axis.set_xscale("symlog", linthresh=STRAIGHT, linscale=1.0)
    low, high = min([0.0, *ends]), max([0.0, *ends])
    pad = 0.15 * max(most, STRAIGHT)
    axis.set_xlim(low - pad, high + pad)
    axis.xaxis.set_major_locator(FixedLocator(TICKS))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
