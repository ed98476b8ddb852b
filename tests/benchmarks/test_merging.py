"""The benchmarks of merging run as a user types them, on shapes so small that their times say nothing."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import knots
from benchmarks import merging, scaling
from benchmarks._adapters import SHAPES, random_adapters, write_adapters
from benchmarks._rivals import (
    alignment_flops,
    core_space_merge,
    dense_alignment,
    distance,
    modules_of,
    reference_seconds,
    whole_tensor_ties,
)
from benchmarks.merging import coordinate_count
from benchmarks.scaling import growth
from tests import reference

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = ["tasks=3", "rank=2", "modules=4", "width=16", "threads=1", "repeats=1"]


@pytest.fixture
def run(monkeypatch):
    """Runs a benchmark in this process; `benchmarks` starts others for what only they can tell."""

    def run(script, *words):
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *words])
        monkeypatch.setattr(script, "in_new_process", lambda function, *args: function(*args))
        script.main()

    return run


@pytest.fixture
def adapters():
    return random_adapters(replace(SHAPES["vit_b_32"], tasks=3, rank=2, modules=4, width=16))


def test_written_adapters_are_those_in_memory(tmp_path):
    shape = replace(SHAPES["llama3_8b"], tasks=2, rank=2, modules=4, width=16)
    for folder, expected in zip(write_adapters(shape, tmp_path), random_adapters(shape), strict=True):
        found = knots.load_adapter(folder)
        assert sorted(update.shape for update in found.updates.values()) == sorted(shape.sides)
        for module, update in expected.updates.items():
            assert torch.equal(found.updates[module].dense(), update.dense())


def test_shapes_are_those_of_the_models():
    assert len(SHAPES["vit_b_32"].sides) == 48
    assert set(SHAPES["vit_l_14"].sides) == {(1024, 1024)}
    assert set(SHAPES["llama3_8b"].sides) == {(4096, 4096), (1024, 4096)}
    assert SHAPES["vit_b_32"].numbers == 8 * 48 * 16 * 2 * 768


def test_coordinates_are_counted_as_they_are_read(adapters):
    small = replace(SHAPES["vit_b_32"], tasks=3, rank=2, modules=4, width=16)
    for space, align in knots.spaces.SPACES.items():
        parts = modules_of(adapters)
        assert sum(align(one, 0.0).read().numel() for one in parts) == coordinate_count(small, space)


def test_the_published_algorithm_gives_our_merge(adapters):
    merged = knots.merge(adapters, **knots.METHODS["knots_ties"], scale=0.5, density=0.3, trim="module")
    for ours, parts in zip(merged.updates.values(), modules_of(adapters), strict=True):
        assert distance(ours.dense(), parts, 0.5, 0.3) < 1e-5


def test_whole_tensor_ties_is_ties(generator):
    coords = torch.randn(3, 40, generator=generator)
    expected = reference.ties([{"m": row} for row in coords], 0.3, "mean", "model")["m"]
    torch.testing.assert_close(whole_tensor_ties(coords, 0.3), expected)


def test_core_spaces_merge_is_ours_in_core_space(adapters):
    ours = knots.merge(adapters, space="core", rule="ties", scale=1.0, density=1.0).updates.values()
    theirs = core_space_merge(modules_of(adapters), 1.0)
    for update, (b, a) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(b @ a, update.dense(), rtol=1e-4, atol=1e-5)


def test_the_dense_time_counts_every_module(adapters):
    found = reference_seconds(modules_of(adapters), budget=0.0)
    assert (found.measured, found.modules) == (1, 4)
    assert found.align > 0
    assert reference_seconds(modules_of(adapters), budget=60.0).measured == 4


def test_operations_of_one_module(adapters):
    parts = modules_of(adapters)[0]
    u, coords = dense_alignment(parts)
    assert (u.shape, coords.shape) == ((16, 6), (3, 6, 16))
    qr_b, qr_a = 4 * (16 * 36 - 72), 4 * (16 * 4 - 8 / 3)
    assert alignment_flops([parts]) == pytest.approx(qr_b + 3 * qr_a + 2 * 6 * 12 + 22 * 216 + 2 * 16 * 36)


def test_a_merge_is_measured_step_by_step(tmp_path, run, capsys):
    run(merging, *SMALL, "reference=true", "budget=0", f"out={tmp_path}/merge.json")
    found = json.loads((tmp_path / "merge.json").read_text())
    measured = found["measured"]
    assert set(measured["seconds"]) == {
        *("load", "align", "threshold", "merge", "save"),
        *("in memory", "relative_error"),
    }
    assert measured["seconds"]["relative_error"] == 0
    assert measured["bytes"]["coordinates"] == 4 * 3 * 4 * 6 * 16
    assert measured["bytes"]["adapters"] == 4 * 3 * 4 * 2 * 2 * 16
    assert measured["rivals"]["dense"]["modules"] == 4
    assert measured["rivals"]["distance"] < 1e-5
    assert found["options"]["tasks"] == 3
    assert "extrapolated from 1 of 4 modules" in capsys.readouterr().out


@pytest.mark.slow
def test_its_processes_find_each_other(tmp_path):
    command = [sys.executable, REPOSITORY / "benchmarks" / "merging.py", *SMALL, f"out={tmp_path}/merge.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "merge.json").read_text())["measured"]["bytes"]["before"] > 1e8


def test_growth_is_measured_and_drawn(tmp_path, run):
    words = ["axes=[tasks]", "points.tasks=[2,4]", *SMALL[1:]]
    run(scaling, *words, f"out={tmp_path}/scaling.json", f"figure={tmp_path}/scaling.png")
    points = json.loads((tmp_path / "scaling.json").read_text())["measured"]["tasks"]
    assert [point["tasks"] for point in points] == [2, 4]
    assert [point["coordinates"] for point in points] == [2 * 4 * 4 * 16, 4 * 4 * 8 * 16]
    assert (tmp_path / "scaling.png").stat().st_size > 1000


def test_growth_is_told_by_its_power():
    points = [{"tasks": n, "seconds": {"align": n**2, "merge": 0.0}} for n in (2, 4, 8)]
    assert growth(points, "tasks", "align") == pytest.approx([2.0, 2.0])
    assert str(growth(points, "tasks", "merge")[0]) == "nan"


@pytest.mark.parametrize(("script", "word", "message"), [
    (merging, "shape=vit", "shape=vit; allowed: vit_b_32, vit_l_14, llama3_8b"),
    (merging, "raank=2", "'raank=2' is no option; allowed: shape=, "),
    (merging, "space=plane", "space=plane; allowed: full, "),
    (scaling, "axes=[depth]", "axes=depth; allowed: tasks, rank, modules, width"),
])  # fmt: skip
def test_a_wrong_word_is_one_line(script, word, message, run, capsys):
    with pytest.raises(SystemExit) as stop:
        run(script, word)
    shown = capsys.readouterr().err
    assert stop.value.code == 2
    assert shown.startswith(f"error: {message}")
    assert shown.count("\n") == 1
