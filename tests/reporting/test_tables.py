"""Tables at the widths of real terminals."""

from typing import Any

import pytest
from rich.console import Console, RenderableType

from knots.reporting.comparison import Comparison
from knots.reporting.tables import result_view, runs_view
from tests.reporting.conftest import TASKS, make_metrics


def shown(view: RenderableType, width: int) -> list[str]:
    console = Console(width=width, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with console:
        console.print(view)
    console.file.close()
    return console.export_text().splitlines()


def row(lines: list[str], label: str) -> list[str]:
    return next(line.split()[1:] for line in lines if line.strip().startswith(f"{label} "))


@pytest.mark.parametrize("width", [80, 100, 200])
def test_tasks_are_columns_and_nothing_is_cut(merged: dict, baselines: dict, width: int):
    lines = shown(result_view(Comparison(merged, baselines)), width)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    assert row(lines, "merged")[:9] == [
        "60.0",
        "61.0",
        "62.0",
        "63.0",
        "64.0",
        "65.0",
        "66.0",
        "67.0",
        "63.5",
    ]
    assert row(lines, "zero-shot")[0] == "40.0"
    assert row(lines, "fine-tuned")[0] == "90.0"
    assert row(lines, "normalized")[0] == "66.7"
    assert row(lines, "n")[0] == "4,000"
    assert row(lines, "n")[-1] == "32,028"
    # The longer arm of [58.5, 61.25] around 60.
    assert "±1.5" in " ".join(lines)


def test_a_narrow_terminal_gets_tasks_as_rows(merged: dict, baselines: dict):
    lines = shown(result_view(Comparison(merged, baselines)), 70)
    assert row(lines, "digits") == ["40.0", "90.0", "60.0", "66.7", "4,000"]
    assert row(lines, "street_numbers")[0] == "41.0"


def test_joint_hits_stand_below(merged: dict, baselines: dict):
    lines = shown(result_view(Comparison(merged, baselines)), 80)
    title = next(place for place, line in enumerate(lines) if "71 classes, 32,028 items" in line)
    assert row(lines[title:], "merged")[:4] == ["51.0", "53.0", "55.0", "60.0"]
    assert row(lines[title:], "fine-tuned (oracle)")[1:3] == ["81.0", "83.0"]


def test_only_what_was_measured_is_shown(merged: dict, baselines: dict):
    without = make_metrics("merged", 60.0, joint=False)
    assert not any("jointly" in line for line in shown(result_view(Comparison(without, {})), 80))
    for numbers in merged["per_task"].values():
        numbers.update(accuracy=None, normalized=None)
    lines = shown(result_view(Comparison(merged, baselines)), 80)
    assert not any("own classes" in line for line in lines)
    assert any("jointly" in line for line in lines)


def test_a_baseline_alone_has_one_row():
    lines = shown(result_view(Comparison(make_metrics("zero_shot", 40.0))), 80)
    assert row(lines, "zero-shot")[0] == "40.0"
    assert not any(line.strip().startswith(("merged", "normalized")) for line in lines)


def runs() -> list[tuple[str, dict[str, Any]]]:
    ties = make_metrics("merged", 55.0, method="ties")
    ties["merge"] |= {"scale": 0.3, "density": 0.2, "drop": 0.5, "trim": "module"}
    return [
        ("0123456789ab", make_metrics("merged", 60.0, method="knots_ties")),
        ("aaaaaaaaaaaa", ties),
        ("bbbbbbbbbbbb", make_metrics("zero_shot", 40.0, joint=False)),
    ]


@pytest.mark.parametrize("width", [80, 160])
def test_runs_stand_side_by_side(width: int):
    lines = shown(runs_view(runs()), width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert "…" not in text
    assert all(
        word in text for word in ("knots_ties", "zero_shot", "scale 0.3", "density 0.2", "trim module")
    )
    assert all(word in text for word in ("digits", "street", "average", "normalized", "@5"))
    assert text.count("mini_clip on mini_vision8, test split") == (2 if width == 80 else 1)
    first = next(line for line in lines if line.strip().startswith("012345"))
    assert {"63.5", "53.0"} <= set(first.split())


def test_runs_of_different_suites_get_blocks_of_their_own():
    other = make_metrics("merged", 60.0)
    other["suite"] = "vision8"
    other["per_task"] = {"dtd": other["per_task"][TASKS[0]]}
    text = "\n".join(shown(runs_view([*runs(), ("cccccccccccc", other)]), 160))
    assert "mini_clip on vision8" in text
    assert "dtd" in text


def language(kind: str, level: float) -> dict[str, Any]:
    metrics = make_metrics(kind, level, joint=False)
    metrics |= {"model": "mini_llama", "suite": "mini_nli6", "modality": "language"}
    for place, numbers in enumerate(metrics["per_task"].values()):
        numbers["majority"] = 30.0 + place
    return metrics


def test_language_shows_the_base_and_the_majority_class():
    merged = language("merged", 60.0)
    lines = shown(result_view(Comparison(merged, {"zero_shot": language("zero_shot", 40.0)})), 120)
    assert row(lines, "majority")[1:3] == ["30.0", "31.0"]
    assert row(lines, "majority")[-1] == "33.5"
    assert row(lines, "base")[0] == "40.0"
    assert not any("zero-shot" in line or "jointly" in line for line in lines)
    assert "hits" not in "\n".join(shown(runs_view([("0123456789ab", merged)]), 160))
