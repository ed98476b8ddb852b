"""The miniature on real images: trained, merged and measured by the commands that users type.

Data folders are given on the command line, in place of the ids of `vision8`. What is shown is that adapters
learn from real pictures and that every step takes them; the numbers are those of a very small model.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.experiments.recomputing import kept
from tests.experiments.rehearsing import all_metrics, check_trained, type_command
from tests.rehearsal import task_config
from tests.wider_base import widen

pytestmark = pytest.mark.slow

TASKS = ("dtd", "gtsrb", "mnist")
SIZES = {
    "dtd": {"train": 400, "validation": 400, "test": 400},
    "gtsrb": {"train": 7842, "validation": 1000, "test": 4000},
    "mnist": {"train": 4000, "validation": 200, "test": 800},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def run(place: Path, shared: Path):
    """Run an entry point on the real pictures."""
    configs = [task_config(task) for task in TASKS]
    widen(
        place / "base",
        [t.replace("{}", c) for config in configs for c in config["classes"] for t in config["templates"]],
    )
    own = ["logger=none", "trainer=cpu", f"paths.cache_dir={place}/cache"]
    chosen = ["suite=vision8", "tasks=[gtsrb,mnist,dtd]"]
    subject = [
        f"model.base={place}/base",
        *(f"suite.tasks.{task}.source.path={shared / 'data' / task}" for task in TASKS),
        *(f"suite.tasks.{task}.sizes.{split}={n}" for task in TASKS for split, n in SIZES[task].items()),
        # This copy of the textures has a validation split of its own.
        *("suite.tasks.dtd.source.validation=null", "suite.tasks.dtd.source.splits.validation=validation"),
    ]

    def run(script: str, *overrides: str, further: Sequence[str] = ()) -> str:
        """For an experiment, `further` goes to what it is made of, with data and base."""
        if script == "reproduce.py":
            return type_command(
                place, script, [*overrides, *own, f"overrides={' '.join([*subject, *further])}"]
            )
        return type_command(place, script, [*overrides, *own, *chosen, *subject])

    return run


@pytest.fixture(scope="module")
def adapters(run, place: Path) -> str:
    run("finetune.py", "finetune.steps=200", "finetune.validate_every=100", "finetune.learning_rate=3e-3")
    return f"adapters={place}/outputs/finetune/mini_clip/{{task}}"


def test_adapters_are_trained_on_real_images_and_say_so(adapters: str, place: Path):
    check_trained(place, "mini_clip", {task: f"train {SIZES[task]['train']} pictures" for task in TASKS})


def test_everything_is_measured_on_real_images(adapters: str, run, place: Path):
    run("merge.py", "-m", "merge=knots_ties,regmean,ensemble", adapters)
    found = all_metrics(place)
    assert set(found) == {"zero_shot", "finetuned", "knots_ties", "regmean", "ensemble"}
    for metrics in found.values():
        assert metrics["joint"]["classes"] == 100
        assert metrics["joint"]["n"] == 5200
    finetuned, base = (
        {task: row["accuracy"] for task, row in found[kind]["per_task"].items()}
        for kind in ("finetuned", "zero_shot")
    )
    assert finetuned["mnist"] > base["mnist"] + 30
    assert finetuned["gtsrb"] > base["gtsrb"] + 15
    assert finetuned["dtd"] > base["dtd"] + 10
    assert found["finetuned"]["joint"]["hits@1"] > found["zero_shot"]["joint"]["hits@1"]
    merged = found["knots_ties"]["per_task"]["mnist"]
    assert merged["normalized"] == pytest.approx(100 * merged["accuracy"] / finetuned["mnist"])


def test_the_claims_are_measured_on_real_images_too(adapters: str, run, place: Path):
    """A set of adapters is there, another one is trained; no verdict is asked for."""
    shutil.copytree(place / "outputs" / "finetune" / "mini_clip", place / "outputs/finetune/real/universe_0")
    out = run(
        "reproduce.py",
        *("experiment=real_claims", "experiment.universes=[0,1]"),
        further=["finetune.steps=100", "finetune.validate_every=100"],
    )
    record = kept(place / "outputs", "real_claims")
    card, ranking, _ = record["sheets"]
    found = {row["label"]: row["cells"] for row in card["rows"] if row["missing"] is None}
    assert set(found) == {
        *("KnOTS-TIES above TIES", "with DARE: near zero", "columns above rows", "ensemble worst jointly"),
        *("RegMean below TA", "collapse at large scales"),
    }
    for estimate, _, verdict in found.values():
        low, high = estimate["interval"]
        assert low <= estimate["ours"] <= high
        assert verdict["text"] in out
    assert "Kendall's tau-b" in ranking["notes"][0]
