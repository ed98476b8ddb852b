"""The ready sweep files: what an agent of W&B would run exists in the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from experiments._cli import CONF, plain
from knots.pipelines import parse_merge

SWEEPS = sorted((CONF / "wandb_sweep").glob("*.yaml"))

GIVEN = {"values", "value", "distribution", "min", "max"}
KEYS = {"project", "name", "program", "method", "run_cap", "metric", "parameters", "command"}


def corners(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """The first and the last value of every parameter."""
    ends = [
        {
            name: parameter["values"][place] if "values" in parameter else parameter[end]
            for name, parameter in sweep["parameters"].items()
        }
        for place, end in ((0, "min"), (-1, "max"))
    ]
    assert ends[0] != ends[1]
    return ends


def command_line(sweep: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """What W&B's own agent would start, from the same pieces put together in the same way."""
    command = {"args": {key: {"value": value} for key, value in values.items()}}
    parts = create_sweep_command_args(command)
    parts |= {"program": [sweep["program"]], "env": ["/usr/bin/env"], "interpreter": ["python"]}
    line: list[str] = []
    for word in map(str, create_sweep_command(list(sweep["command"]))):
        line += parts[word[2:-1]] if word.startswith("${") else [word]
    return line


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_starts_a_merge_that_the_configuration_knows(path: Path):
    sweep = yaml.safe_load(path.read_text())
    assert sweep["method"] in {"grid", "random", "bayes"}
    assert set(sweep) <= KEYS
    assert all(set(parameter) <= GIVEN for parameter in sweep["parameters"].values())
    # Only a grid ends by itself.
    assert sweep["method"] == "grid" or sweep["run_cap"] > 0
    assert (CONF.parent / sweep["program"]).is_file()
    for values in corners(sweep):
        env, uv, run, program, *overrides = command_line(sweep, values)
        assert [env, uv, run, program] == ["/usr/bin/env", "uv", "run", "experiments/merge.py"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            plan = parse_merge(plain(compose(Path(program).stem, overrides=overrides)))
        # Nothing is chosen on the test split.
        assert plan.scoring.split == "validation"
        found = {"seed": plan.seed, **{f"merge.{key}": value for key, value in plan.options.items()}}
        assert {key: found[key] for key in values} == values


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_says_how_it_is_started(path: Path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert f"#   uv run wandb sweep conf/wandb_sweep/{path.name}" in header
    assert any("uv run wandb agent" in line for line in header)


def test_what_is_swept_over_here_is_what_the_paper_searched():
    grids = {path.stem: yaml.safe_load(path.read_text()) for path in SWEEPS}
    tenths = [round(0.1 * step, 1) for step in range(1, 11)]
    paper = grids["vit_b_32_paper"]["parameters"]
    assert paper == {"merge.scale": {"values": tenths}, "merge.density": {"values": tenths}}
    assert {sweep["method"] for sweep in grids.values()} == {"grid", "bayes"}
