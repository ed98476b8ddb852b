"""Charts hold the numbers they were given."""

import numpy as np
import pytest

from knots.reporting.charts import bars, heatmaps, lines_with_bands, search_curves
from knots.reporting.comparison import Value

TRIALS = [
    {"order": 0, "options": {"scale": 0.1, "density": 0.2, "drop": 0.0}, "value": 60.0, "seed": 0},
    {"order": 1, "options": {"scale": 0.2, "density": 0.2, "drop": 0.0}, "value": 65.0, "seed": 0},
    {"order": 2, "options": {"scale": 0.3, "density": 0.2, "drop": 0.0}, "value": 62.0, "seed": 0},
    {"order": 3, "options": {"scale": 0.2, "density": 0.4, "drop": 0.0}, "value": 64.0, "seed": 0},
]


def test_bars_are_as_high_as_the_values_and_whiskers_reach_their_ends():
    values = {"ties": [Value(50.0, (48.0, 53.0)), Value(None)], "knots_ties": [Value(60.0), Value(70.0)]}
    figure = bars(values, ["dtd", "stanford_cars"], title="T", ylabel="accuracy (%)")
    axis = figure.axes[0]
    first, second = (c for c in axis.containers if len(getattr(c, "patches", ())) == 2)
    assert first.patches[0].get_height() == 50.0
    assert np.isnan(first.patches[1].get_height())
    assert [bar.get_height() for bar in second.patches] == [60.0, 70.0]
    low, high = axis.containers[1].lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == (48.0, 53.0)
    assert axis.get_ylabel() == "accuracy (%)"
    assert "95 % intervals" in axis.get_title(loc="right")
    assert [text.get_text() for text in figure.legends[0].texts] == ["ties", "knots_ties"]
    plain = bars({"a": [Value(1.0)]}, ["x"], title="T", ylabel="%")
    assert plain.axes[0].get_title(loc="right") == ""


def test_heat_maps_write_every_number_and_share_one_scale():
    matrix = np.array([[1.0, 0.25], [np.nan, 1.0]])
    figure = heatmaps({"LoRA": matrix, "KnOTS": matrix}, ["a", "b"], title="T", limits=(0, 1), caption="CKA")
    left, right, scale = figure.axes
    assert [text.get_text() for text in left.texts] == ["1.00", "0.25", "1.00"]
    assert left.images[0].get_clim() == right.images[0].get_clim() == (0, 1)
    assert (left.get_title(), scale.get_ylabel()) == ("LoRA", "CKA")


def test_a_search_has_a_panel_an_option_it_varied_and_one_of_its_progress():
    chosen = {"scale": 0.2, "density": 0.2, "drop": 0.0}
    figure = search_curves(TRIALS, title="T", ylabel="normalized (%)", chosen=chosen)
    labels = [axis.get_xlabel() for axis in figure.axes]
    assert [label.split()[0] for label in labels] == ["scale", "density", "evaluations,"]
    best = figure.axes[-1].lines[0]
    assert list(best.get_ydata()) == [60.0, 65.0, 65.0, 65.0]
    for axis, place in zip(figure.axes, (0.2, 0.2, 1), strict=True):
        ring = next(c for c in axis.collections if c.get_label() == "chosen")
        assert ring.get_offsets().tolist() == [[place, 65.0]]


@pytest.mark.parametrize("trials", [TRIALS[:1], TRIALS[1:2] * 2])
def test_a_search_that_varied_nothing_shows_its_progress(trials: list):
    assert len(search_curves(trials, title="T", ylabel="%", chosen=None).axes) == 1


def test_lines_have_bands_where_there_are_intervals():
    series = {"ties": [(4, 50.0, 48.0, 51.0), (2, 60.0, 59.0, 62.0)], "ta": [(2, 40.0, None, None)]}
    figure = lines_with_bands(series, title="T", xlabel="rank", ylabel="%", log=True, xticks=[2, 4])
    axis = figure.axes[0]
    assert axis.lines[0].get_xydata().tolist() == [[2, 60], [4, 50]]
    assert axis.get_xscale() == "log"
    assert [label.get_text() for label in axis.get_xticklabels()] == ["2", "4"]
    band = axis.collections[0].get_paths()[0].vertices
    assert {(4.0, 48.0), (4.0, 51.0), (2.0, 59.0), (2.0, 62.0)} <= set(map(tuple, band.tolist()))
    assert "95 % intervals" in axis.get_title(loc="right")
