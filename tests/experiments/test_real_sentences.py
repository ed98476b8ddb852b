"""The miniature on real sentences: trained, merged and measured by the commands that users type.

Data folders are given on the command line, in place of the ids of `nli6`. Most words are new to the
miniature: what is shown is that every step takes real sentences; the numbers are those of a very small model.
"""

from pathlib import Path

import pandas as pd
import pytest

from tests.experiments.rehearsing import all_metrics, check_trained, type_command
from tests.wider_language import widen

pytestmark = pytest.mark.slow

TASKS = ("sick", "qnli", "rte")
SIZES = {
    "sick": {"train": 4500, "validation": 500, "test": 4927},
    "qnli": {"train": 3463, "validation": 400, "test": 1600},
    "rte": {"train": 2490, "validation": 139, "test": 138},
}
COLUMNS = ("sentence_A", "sentence_B", "text1", "text2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def data(place: Path, shared: Path) -> dict[str, Path]:
    """Folders with the splits; of QNLI only one is there, the first part of which is taken for training."""
    pairs = pd.read_parquet(shared / "data" / "qnli" / "validation-00000-of-00001.parquet")
    folder = place / "qnli"
    folder.mkdir()
    pairs[:3463].to_parquet(folder / "train-00000-of-00001.parquet")
    pairs[3463:].to_parquet(folder / "validation-00000-of-00001.parquet")
    return {"sick": shared / "data" / "sick", "rte": shared / "data" / "rte", "qnli": folder}


@pytest.fixture(scope="module")
def run(place: Path, data: dict[str, Path]):
    """Run an entry point on the real sentences."""
    tables = [pd.read_parquet(folder / "train-00000-of-00001.parquet") for folder in data.values()]
    columns = [table[name] for table in tables for name in COLUMNS if name in table]
    texts = [text for column in columns for text in column]
    widen(place / "base", texts)
    arguments = [
        *("model=mini_llama", "suite=nli6", f"model.base={place}/base", "tasks=[sick,qnli,rte]"),
        *("logger=none", "trainer=cpu", f"paths.cache_dir={place}/cache"),
        *(f"suite.tasks.{task}.source.path={folder}" for task, folder in data.items()),
        *(f"suite.tasks.{task}.sizes.{split}={n}" for task in TASKS for split, n in SIZES[task].items()),
        *(f"suite.tasks.{task}.max_length=100" for task in TASKS),
    ]

    def run(script: str, *overrides: str) -> str:
        return type_command(place, script, [*overrides, *arguments])

    return run


@pytest.fixture(scope="module")
def adapters(run, place: Path) -> str:
    run("finetune.py", "finetune.steps=60", "finetune.validate_every=30", "finetune.batch_size=32")
    return f"adapters={place}/outputs/finetune/mini_llama/{{task}}"


def test_adapters_are_trained_on_real_sentences_and_say_so(adapters: str, place: Path):
    check_trained(place, "mini_llama", {task: f"train {SIZES[task]['train']} pairs" for task in TASKS})


def test_everything_is_measured_on_real_sentences(adapters: str, run, place: Path):
    run("merge.py", "-m", "merge=knots_ties,regmean,task_arithmetic", adapters)
    found = all_metrics(place)
    assert set(found) == {"zero_shot", "finetuned", "knots_ties", "regmean", "task_arithmetic"}
    for metrics in found.values():
        assert {task: row["n"] for task, row in metrics["per_task"].items()} == {
            task: SIZES[task]["test"] for task in TASKS
        }
    finetuned = found["finetuned"]["per_task"]
    # In so few steps the miniature learns how often classes are, and little more: 56.4 % where the majority
    # class has 56.7 %.
    assert finetuned["sick"]["accuracy"] > finetuned["sick"]["majority"] - 5
    merged = found["knots_ties"]["per_task"]["sick"]
    assert merged["normalized"] == pytest.approx(100 * merged["accuracy"] / finetuned["sick"]["accuracy"])
    table = pd.read_parquet(next((place / "outputs" / "merge").glob("[!.]*/predictions.parquet")))
    assert not (table[table.task != "sick"].prediction == 1).any()
