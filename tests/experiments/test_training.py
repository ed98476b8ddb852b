"""`experiments/pretrain.py` and `experiments/finetune.py`, as a user types them, with a handful of steps."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def run(place):
    def run(script, *overrides):
        environment = {**os.environ, "KNOTS_CACHE": str(place / "cache")}
        command = [sys.executable, str(ROOT / "experiments" / script), *overrides]
        options = {"cwd": place, "env": environment, "capture_output": True, "text": True}
        return subprocess.run(command, check=False, **options)

    return run


@pytest.fixture(scope="module")
def base(place, run):
    small = ["shape.width=32", "shape.layers=1", "plan.pictures=500", "plan.steps=3", "plan.batch_size=32"]
    done = run("pretrain.py", f"folder={place / 'base'}", *small)
    assert done.returncode == 0, done.stderr
    return place / "base"


@pytest.fixture(scope="module")
def finetune(base, place, run):
    def finetune(*overrides):
        short = [
            "finetune.steps=4",
            "finetune.validate_every=2",
            f"folder={place / 'adapters'}",
            "trainer=cpu",
        ]
        return run("finetune.py", f"model.base={base}", *short, *overrides)

    return finetune


def test_a_base_is_trained_and_adapters_for_it(base, finetune, place):
    assert (base / "model.safetensors").is_file()
    done = finetune("tasks=[digits,signs]")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (place / "adapters").iterdir()) == ["digits", "signs"]
    again = finetune("task=signs")
    assert again.returncode == 0
    assert "signs: finished before" in again.stdout


def test_a_full_fine_tune_and_its_curves(finetune, place):
    done = finetune("task=digits", "finetune=full", "logger=csv", f"folder={place / 'full'}")
    assert done.returncode == 0, done.stderr
    assert (place / "full" / "digits" / "model.safetensors").is_file()
    curves = (place / "outputs" / "csv" / "mini_clip-digits" / "version_0" / "metrics.csv").read_text()
    assert "accuracy" in curves.splitlines()[0]


def test_a_killed_training_is_gone_on_with(base, place, run):
    arguments = [
        f"model.base={base}",
        "task=signs",
        "trainer=cpu",
        "logger=none",
        "finetune.validate_every=2",
    ]
    killed = [*arguments, "finetune.steps=300", "finetune.patience=1000", f"folder={place / 'killed'}"]
    command = [sys.executable, str(ROOT / "experiments" / "finetune.py"), *killed]
    environment = {**os.environ, "KNOTS_CACHE": str(place / "cache")}
    process = subprocess.Popen(command, cwd=place, env=environment)
    checkpoint = place / "killed" / ".signs.training" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not checkpoint.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert run("finetune.py", *killed).stdout.count("going on from step") == 1
    assert run("finetune.py", *killed[:-1], f"folder={place / 'whole'}").returncode == 0
    whole, resumed = (
        (place / name / "signs" / "adapter_model.safetensors").read_bytes() for name in ("whole", "killed")
    )
    assert whole == resumed
    assert [path.name for path in (place / "killed").iterdir()] == ["signs"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tasks=sings", "did you mean 'signs'"),
        ("task=sings", "did you mean 'signs'"),
        (
            ["finetune=vision_lora", "finetune.rank=8"],
            "no number for rank 8 (it has some for 4, 16, 64, 256)",
        ),
        ("finetune.rank=eight", "finetune.rank must be a whole number"),
        ("finetune.rank=0", "finetune.rank must be at least 1, got 0"),
        ("finetune.stepz=3", "stepz"),
    ],
)
def test_a_mistake_gets_one_message_and_leaves_nothing(finetune, place, override, message):
    before = sorted(place.rglob("*.json"))
    done = finetune(*([override] if isinstance(override, str) else override))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(place.rglob("*.json")) == before
