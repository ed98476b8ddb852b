"""`experiments/pretrain.py` and `experiments/finetune.py`, as a user types them, with a handful of steps."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from knots.adapters import load_adapter
from tests.language import WORDS, tiny_llama

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


def test_one_adapter_for_several_tasks_and_its_score(finetune, base, place, run):
    jointly = ["multitask=true", "finetune=lora_multitask", f"folder={place / 'jointly'}"]
    done = finetune("tasks=[digits,signs]", *jointly, "logger=csv")
    assert done.returncode == 0, done.stderr
    assert "multitask: {'zero_shot': " in done.stdout
    assert [path.name for path in (place / "jointly").iterdir()] == ["multitask"]
    assert load_adapter(place / "jointly" / "multitask").updates
    assert (place / "outputs" / "csv" / "mini_clip-multitask" / "version_0" / "metrics.csv").is_file()
    assert "multitask: finished before" in finetune("tasks=[digits,signs]", *jointly).stdout
    wrong = finetune("multitask=maybe")
    assert (wrong.returncode, "multitask='maybe'; true or false" in wrong.stderr) == (2, True)
    assert finetune("tasks=[digits,signs]").returncode == 0
    scored = run(
        "merge.py",
        *("merge=multitask", "tasks=[digits,signs]", "eval=per_task", "logger=none", "trainer=cpu"),
        *(f"model.base={base}", f"adapters={place / 'adapters'}/{{task}}"),
        f"model.multitask={place / 'jointly' / 'multitask'}",
    )
    assert scored.returncode == 0, scored.stderr
    assert "multi-task" in scored.stdout


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


@pytest.fixture(scope="module")
def pairs(place, run):
    """Trains on rte; the model is a tiny Llama, and the data set a folder of this machine."""
    base, data = tiny_llama(place / "llama"), place / "rte"
    data.mkdir()
    for split, count in (("train", 12), ("validation", 10)):
        rows = [
            {"text1": " ".join(WORDS[n : n + 5]), "text2": WORDS[-n - 1], "label": n % 2}
            for n in range(count)
        ]
        (data / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    common = [
        "model=llama3_8b",
        f"model.base={base}",
        f"suite.tasks.rte.source.path={data}",
        *(
            f"suite.tasks.rte.sizes.{split}={n}"
            for split, n in (("train", 12), ("validation", 5), ("test", 5))
        ),
        *("task=rte", "trainer=cpu", "logger=none", "finetune.steps=4", "finetune.validate_every=2"),
    ]

    def pairs(*overrides):
        return run("finetune.py", *common, *overrides)

    return pairs


def test_an_adapter_for_pairs_by_the_paper_s_recipe(pairs, place):
    done = pairs(f"folder={place / 'nli'}")
    assert done.returncode == 0, done.stderr
    assert "rte: {'untrained': " in done.stdout
    adapter = load_adapter(place / "nli" / "rte")
    assert adapter.heads["score.weight"].shape == (3, 16)
    assert {update.rank for update in adapter.updates.values()} == {16}
    assert "rte: finished before" in pairs(f"folder={place / 'nli'}").stdout


def test_a_head_alone_on_a_frozen_model(pairs, place):
    done = pairs("finetune=nli_head_mini", f"folder={place / 'heads'}")
    assert done.returncode == 0, done.stderr
    saved = load_file(place / "heads" / "rte" / "head.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in saved.items()} == {"score.weight": (3, 16)}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["finetune=lora"], "the recipe is one for vision, but model 'llama3_8b' takes language"),
        (["+finetune.scale=3"], "finetune.scale is for vision, but the recipe is one for language"),
        (["finetune.kind=full"], "unknown finetune.kind 'full'"),
    ],
)
def test_what_is_of_another_modality_gets_one_message(pairs, overrides, message):
    done = pairs(*overrides)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
