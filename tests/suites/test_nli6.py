"""The paper's six tasks of sentences: as their configurations compose, and read from a hub on loopback."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from hydra import compose, initialize_config_dir

from experiments._cli import CONF, plain
from knots.errors import KnotsError
from knots.suites import Suite, listings, parse_suite
from knots.suites.data import Sample, load_split, prepare, source_identity
from knots.suites.splits import held_out
from knots.suites.tasks import TextTask
from tests.hub import Hub, message_of
from tests.suites.nli6 import ROWS, SIZES, TASKS, rows_of, serve_nli6, size_overrides
from tests.suites.sentences import CLASSES, READING, TextReading, all_spelt, character_tokenizer

TESTED = (9824, 7852, 4906, 4370, 138, 2126)
"""The items behind the published accuracies."""

# nli_pertask_linearsearch.py of gstoica27/KnOTS@baa35e8 and of apanariello4/core-space-merging@85176fa
REFERENCES = {
    "llama3_8b": (92.5, 90.31, 91.58, 94.49, 89.86, 96.52),
    "llama3_2_1b": (88.58, 84.09, 90.22, 89.73, 78.99, 94.97),
}
GLUE_VALIDATION = {"mnli": 9815, "qnli": 5463, "rte": 277}
MEANING = {"entails": 0, "neutral": 1}


def composed(*overrides: str) -> Suite:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("merge", overrides=["logger=none", "suite=nli6", *overrides])
    return parse_suite(plain(config)["suite"])


@pytest.fixture(scope="module")
def real() -> Suite:
    return composed()


@pytest.fixture(scope="module")
def small() -> Suite:
    return composed(*size_overrides())


@pytest.fixture(autouse=True)
def _a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "_answers", {})


@pytest.fixture
def stocked(hub: Hub, tmp_path: Path) -> Hub:
    serve_nli6(hub, tmp_path / "served")
    return hub


def test_the_papers_tasks_in_the_papers_order(real: Suite):
    assert (real.modality, real.task_names) == ("language", TASKS)
    assert {task.classes for task in real.text_tasks} == {CLASSES}
    absent = {
        task.name: [CLASSES[number] for number in task.absent] for task in real.text_tasks if task.absent
    }
    assert absent == {"qnli": ["neutral"], "rte": ["neutral"], "scitail": ["contradiction"]}
    assert [task.max_length for task in real.text_tasks] == [2000] * 5 + [1000]


def test_what_is_tested_are_the_items_behind_the_published_numbers(real: Suite):
    assert tuple(task.size("test") for task in real.tasks) == TESTED
    for model, accuracies in REFERENCES.items():
        assert tuple(task.published[model] for task in real.tasks) == accuracies
    for task, accuracy in zip(real.tasks, REFERENCES["llama3_8b"], strict=True):
        # Each is a whole number of right answers.
        right = round(accuracy / 100 * task.size("test"))
        assert round(100 * right / task.size("test"), 2) == accuracy


def test_validation_is_held_out_as_the_reference_does(real: Suite):
    for task in real.tasks:
        part = held_out(task)
        if task.name not in GLUE_VALIDATION:
            assert part is None
            continue
        whole = GLUE_VALIDATION[task.name]
        assert part is not None
        assert task.size("validation") == math.ceil(whole * part.share)
        assert task.size("validation") + task.size("test") == whole
        assert (part.part_of, part.draw) == ("test", "last" if task.name == "mnli" else "datasets")
        assert part.seed == (0 if task.name == "mnli" else 42)


def expected(task: TextTask, split: str) -> list[tuple[tuple[str, str], int]]:
    """Pairs and labels of a split, from the rows that were served and the reference's own rules."""
    in_data = "validation" if task.name in GLUE_VALIDATION and split == "test" else split
    rows = [row for row in rows_of(task.name, in_data) if row["label"] != -1]
    if task.name in GLUE_VALIDATION and in_data == "validation":
        import datasets

        share, shuffled = {"mnli": (0.2, False), "qnli": (0.2, True), "rte": (0.5, True)}[task.name]
        table = datasets.Dataset.from_dict({"item": list(range(len(rows)))})
        parts = table.train_test_split(test_size=share, shuffle=shuffled, seed=42)
        items = parts["test" if split == "validation" else "train"]["item"]
        rows = [rows[item] for item in sorted(items)]
    first, second = task.source["first"], task.source["second"]
    binary = {0: 0, 1: 2} if task.name in ("qnli", "rte") else {}
    labels = [MEANING.get(row["label"], binary.get(row["label"], row["label"])) for row in rows]
    return list(zip([(row[first], row[second]) for row in rows], labels, strict=True))


@pytest.mark.parametrize("name", TASKS)
def test_every_split_from_the_hub(name: str, small: Suite, stocked: Hub, tmp_path: Path):
    task = small.subset([name]).text_tasks[0]
    for split in ROWS:
        arrays = load_split(task, split, tmp_path / "cache", READING)
        assert list(zip(all_spelt(arrays), arrays.labels.tolist(), strict=True)) == expected(task, split)
        assert len(arrays) == SIZES[name][split]
    # Only the three files, each once, and nothing is kept by `datasets`.
    data = [file for file in stocked.downloads if file.endswith((".parquet", ".jsonl"))]
    assert len(data) == len(set(data)) == (2 if name in GLUE_VALIDATION else 3)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"data", "listings"}
    assert not list((tmp_path / "huggingface").glob("datasets/**/*"))


def test_without_the_network_after_the_first_use(
    small: Suite, stocked: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    splits = [(task, "test") for task in small.text_tasks]
    prepare(splits, tmp_path / "cache", READING)
    keys = [source_identity(task, split, tmp_path / "cache", READING) for task, split in splits]
    stocked.stop()
    listings._answers.clear()
    prepare(splits, tmp_path / "cache", READING)
    assert [source_identity(task, split, tmp_path / "cache", READING) for task, split in splits] == keys
    # The hub's cache serves what is tokenized in another way.
    other = TextReading(character_tokenizer(), {"tokenizer": "another"})
    prepare(splits, tmp_path / "cache", other)
    warned = [record.getMessage() for record in caplog.records if record.name == listings.__name__]
    assert len(warned) == 6
    assert all("cannot be reached" in message for message in warned)
    assert stocked.commit("RobZamp/sick@refs/convert/parquet", "dataset") in "".join(warned)
    # What was never asked for cannot be had.
    with pytest.raises(KnotsError, match=r"data set 'SetFit/rte':.* cannot be reached"):
        load_split(small.text_tasks[4], "train", tmp_path / "cache", READING)


def test_copies_in_the_hubs_cache_serve_without_a_network(small: Suite, stocked: Hub, tmp_path: Path):
    """As a cluster has it: downloaded on the login node, by `hf download`."""
    for task in small.tasks:
        huggingface_hub.snapshot_download(
            task.source["path"], repo_type="dataset", revision=task.source["revision"]
        )
    stocked.stop()
    prepare([(task, "test") for task in small.text_tasks], tmp_path / "cache", READING)


FAULTS = [
    ("gated", "'{}' is gated: accept its terms at"),
    ("missing", "'{}'.* no such repository on the hub"),
    ("private", "'{}'.* no such repository on the hub"),
    ("forbidden", "the hub .* forbids access to '{}'"),
    ("disabled", "'{}' has been disabled|the hub .* forbids access to '{}'"),
    ("rate_limit", "'{}'.* HTTP 429"),
    ("server_error", "'{}'.* HTTP 500"),
    ("drops", "'{}'.* failed: .*try again"),
    ("truncates", "'{}'.* failed: .*try again"),
]


@pytest.mark.parametrize("task", [0, 1, 2], ids=["parquet", "jsonl", "converted"])
@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[fault for fault, _ in FAULTS])
def test_faults_of_the_hub_are_one_message(
    fault: str, message: str, task: int, small: Suite, stocked: Hub, tmp_path: Path
):
    one = small.text_tasks[task]
    path = one.source["path"]
    stocked.faults[path] = fault
    with pytest.raises(KnotsError, match=message.replace("{}", path)):
        load_split(one, "test", tmp_path / "cache", READING)
    assert "\n" not in message_of(lambda: load_split(one, "test", tmp_path / "cache", READING))
    assert not (tmp_path / "cache" / "data").exists()
    del stocked.faults[path]
    assert len(load_split(one, "test", tmp_path / "cache", READING)) == one.size("test")


def test_a_download_that_drops_at_first_goes_on(small: Suite, stocked: Hub, tmp_path: Path):
    stocked.faults["SetFit/mnli"] = ("drops", 1)
    with suppress(KnotsError):  # the client tries again by itself only from some version on
        load_split(small.text_tasks[1], "test", tmp_path / "cache", READING)
    assert len(load_split(small.text_tasks[1], "test", tmp_path / "cache", READING)) == 8


def test_one_tasks_failure_leaves_the_others_ready(small: Suite, stocked: Hub, tmp_path: Path):
    stocked.faults["SetFit/rte"] = "server_error"
    splits = [(task, "test") for task in small.text_tasks]
    message = message_of(lambda: prepare(splits, tmp_path / "cache", READING))
    assert "'SetFit/rte'" in message
    assert message.endswith("(the data of the other 5 tasks is ready and kept)")
    assert len(list((tmp_path / "cache" / "data").iterdir())) == 5


def test_a_script_says_what_to_do(stocked: Hub, tmp_path: Path):
    sick = composed("suite.tasks.sick.source.revision=null").text_tasks[2]
    with pytest.raises(KnotsError, match=r"'RobZamp/sick' is a script.*revision='refs/convert/parquet'"):
        load_split(sick, "test", tmp_path / "cache", READING)


@pytest.mark.parametrize("name", ["mnli", "qnli", "rte"])
def test_hidden_labels_are_told(name: str, stocked: Hub, tmp_path: Path):
    overrides = [f"suite.tasks.{name}.source.splits.test=test", f"suite.tasks.{name}.source.validation=null"]
    task = composed(*overrides).subset([name]).text_tasks[0]
    with pytest.raises(
        KnotsError, match=rf"'SetFit/{name}' has the label -1 for all 9 items of split 'test'"
    ):
        load_split(task, "test", tmp_path / "cache", READING)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"config": None}, r"'allenai/scitail' needs a `config` \(known: dgem_format, .*, tsv_format\)"),
        (
            {"config": "tsv"},
            r"unknown config of data set 'allenai/scitail': 'tsv' .*snli_format, tsv_format",
        ),
        ({"config": "snli_format"}, r"unknown column of task 'scitail': .*'premise' \(known: sentence1\)"),
        ({"splits": {"test": "tset"}}, r"unknown split of data set 'allenai/scitail': 'tset'; did you mean"),
    ],
)
def test_a_wrong_choice_is_named(
    source: dict[str, Any], message: str, small: Suite, stocked: Hub, tmp_path: Path
):
    scitail = small.text_tasks[5]
    wrong = TextTask(
        *(scitail.name, scitail.classes, scitail.sizes, {**scitail.source, **source}),
        max_length=scitail.max_length,
    )
    with pytest.raises(KnotsError, match=message):
        load_split(wrong, "test", tmp_path / "cache", READING)


def test_a_folder_takes_the_place_of_a_hub_id(shared: Path, tmp_path: Path):
    def at(name: str, *overrides: str) -> TextTask:
        where = f"suite.tasks.{name}.source.path={shared / 'data' / name}"
        return composed(where, *overrides).subset([name]).text_tasks[0]

    few = Sample(20, 0)
    for name in ("rte", "qnli"):
        task = at(name)
        for split in ("test", "validation"):
            arrays = load_split(task, split, tmp_path, READING, few)
            assert set(arrays.labels.tolist()) == {0, 2}
    sizes = {"train": 4500, "validation": 500, "test": 4927}
    whole = at("sick", *(f"suite.tasks.sick.sizes.{split}={n}" for split, n in sizes.items()))
    assert len(load_split(whole, "test", tmp_path, READING, few)) == 20
    with pytest.raises(KnotsError, match=r"'sick' has 4927 pairs of sentences, but its `sizes` promise 4906"):
        load_split(at("sick"), "test", tmp_path, READING)
