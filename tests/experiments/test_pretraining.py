"""`experiments/pretrain.py` as a user types it: the settings of every base, and a handful of steps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from experiments._cli import CONF, plain
from knots.models.classifier import ClassifierSpec, load_classifier
from knots.pretraining import FAMILIES, clip, llama

ROOT = Path(__file__).resolve().parents[2]
BASES = sorted(path.stem for path in (CONF / "pretrain").glob("*.yaml"))


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(compose("pretrain", overrides=list(overrides)))


@pytest.mark.parametrize("base", BASES)
def test_every_base_is_a_plan(base):
    config = composed(f"pretrain={base}")
    assert config["family"] in FAMILIES
    family = {"clip": clip, "llama": llama}[config["family"]]
    assert family.parse_plan(config["plan"]).seed == 0
    family.parse_shape(config["shape"])
    assert config["folder"].endswith(f"pretrain/{base}")
    assert composed(f"pretrain={base}", "plan.seed=1")["plan"]["seed"] == 1


def test_the_clip_is_the_default():
    assert composed() == composed("pretrain=mini_clip")


@pytest.mark.slow
def test_a_llama_is_trained_from_the_command_line(tmp_path):
    small = ["shape.width=32", "shape.layers=1", "plan.steps=2", "plan.batch_size=4"]
    command = [sys.executable, str(ROOT / "experiments" / "pretrain.py"), "pretrain=mini_llama", *small]
    options = {"cwd": tmp_path, "env": dict(os.environ), "capture_output": True, "text": True}
    done = subprocess.run([*command, f"folder={tmp_path / 'base'}"], check=False, **options)
    assert done.returncode == 0, done.stderr
    assert load_classifier(ClassifierSpec("base", str(tmp_path / "base"))).width == 32
