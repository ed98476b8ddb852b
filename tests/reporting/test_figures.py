"""The figure shows what was measured and is the same every time."""

from pathlib import Path

from knots.reporting.comparison import Comparison
from knots.reporting.figures import result_figure, save_figure
from tests.reporting.conftest import TASKS, make_metrics


def test_the_figure_has_a_bar_a_task_and_series_and_the_joint_hits(merged: dict, baselines: dict):
    figure = result_figure(Comparison(merged, baselines))
    own, joint = figure.axes
    assert [label.get_text().replace("\n", "_") for label in own.get_xticklabels()] == [*TASKS, "average"]
    heights = [bar.get_height() for bar in own.containers[4].patches]
    assert heights[:3] == [60.0, 61.0, 62.0]
    assert [label.get_text() for label in joint.get_xticklabels()] == [
        "hits@1",
        "hits@3",
        "hits@5",
        "hits@10",
    ]
    assert own.get_ylabel().endswith("(%)")
    assert [text.get_text() for text in figure.legends[0].texts] == ["zero-shot", "fine-tuned", "merged"]


def test_whiskers_reach_to_the_interval(merged: dict):
    own = result_figure(Comparison(merged)).axes[0]
    low, high = own.containers[1].lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == (58.5, 61.25)


def test_what_was_not_measured_has_no_panel(merged: dict):
    assert len(result_figure(Comparison(make_metrics("merged", 60.0, joint=False))).axes) == 1


def test_a_figure_is_written_as_png_and_pdf_the_same_every_time(merged: dict, tmp_path: Path):
    for folder in ("a", "b"):
        save_figure(result_figure(Comparison(merged)), tmp_path / folder, "accuracy")
    for name in ("accuracy.png", "accuracy.pdf"):
        first, second = ((tmp_path / folder / name).read_bytes() for folder in ("a", "b"))
        assert first == second
        assert len(first) > 5000
