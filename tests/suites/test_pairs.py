"""Real tasks of sentences from folders: what is read, what labels mean, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from knots.errors import KnotsError
from knots.suites.data import load_split, source_identity
from knots.suites.splits import choose
from knots.suites.tasks import TextTask
from tests.suites.sentences import (
    CLASSES,
    LABELS,
    READING,
    all_spelt,
    one_task,
    sentences,
    some_rows,
    write_rows,
)

ROWS = some_rows(7)


@pytest.mark.parametrize("form", ["parquet", "jsonl", "json", "csv", "tsv"])
@pytest.mark.parametrize("place", ["test", "data/test-00000-of-00001", "test/part"])
def test_all_forms_of_a_folder(form: str, place: str, tmp_path: Path):
    write_rows(tmp_path / "claims" / f"{place}.{form}", ROWS)
    arrays = load_split(one_task(tmp_path / "claims", {"test": 7}), "test", tmp_path / "cache", READING)
    assert all_spelt(arrays) == sentences(ROWS)
    assert arrays.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    # Nothing of what `datasets` wrote is left.
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"data", "hashes.json"}


def test_several_files_and_other_columns(tmp_path: Path):
    rows = some_rows(7, columns=("premise", "hypothesis", "gold"))
    for part, piece in enumerate((rows[:3], rows[3:])):
        write_rows(tmp_path / "claims" / "data" / f"test-0000{part}-of-00002.parquet", piece)
    task = one_task(tmp_path / "claims", {"test": 7}, first="hypothesis", second="premise", label="gold")
    arrays = load_split(task, "test", tmp_path / "cache", READING)
    assert all_spelt(arrays) == sentences(rows, "hypothesis", "premise")


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv"])
def test_words_that_look_like_nothing_are_sentences(form: str, tmp_path: Path):
    words = ["n/a", "None", "null", "NA", "nan", "", 'say "no"', "a,b", "1"]
    rows = [{"a": word, "b": "so", "label": number % 3} for number, word in enumerate(words) if word]
    write_rows(tmp_path / "claims" / f"test.{form}", rows)
    arrays = load_split(one_task(tmp_path / "claims", {"test": 8}), "test", tmp_path / "cache", READING)
    assert all_spelt(arrays) == sentences(rows)


def test_a_readme_says_how_files_are_read(tmp_path: Path):
    folder = tmp_path / "claims"
    write_rows(folder / "here.tsv", ROWS).rename(folder / "here.txt")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  sep: ';'\n"
        "  data_files: [{split: test, path: here.csv}]\n---\n"
    )
    (folder / "here.txt").rename(folder / "here.csv")
    text = (folder / "here.csv").read_text()
    (folder / "here.csv").write_text(text.replace("\t", ";"))
    arrays = load_split(one_task(folder, {"test": 7}), "test", tmp_path / "cache", READING)
    assert all_spelt(arrays) == sentences(ROWS)


@pytest.mark.parametrize(
    ("labels", "meanings", "expected"),
    [
        ((0, 1, 2), LABELS, [0, 1, 2, 0, 1, 2]),
        ((2, 0), {2: "entailment", 0: "contradiction"}, [0, 2, 0, 2, 0, 2]),
        (("yes", "no"), {"yes": "entailment", "no": "contradiction"}, [0, 2, 0, 2, 0, 2]),
        ((0, -1), {**LABELS, -1: None}, [0, 0, 0]),
        (("yes", "-"), {"yes": "neutral", "-": None, "maybe": None}, [1, 1, 1]),
        ((True, False), {True: "entailment", False: "neutral"}, [0, 1, 0, 1, 0, 1]),
    ],
)
@pytest.mark.parametrize("form", ["parquet", "jsonl", "tsv"])
def test_labels_mean_what_the_task_says(
    labels: tuple[Any, ...], meanings: dict[Any, Any], expected: list[int], form: str, tmp_path: Path
):
    write_rows(tmp_path / "claims" / f"test.{form}", some_rows(6, labels))
    task = one_task(tmp_path / "claims", {"test": len(expected)}, labels=meanings)
    assert load_split(task, "test", tmp_path / "cache", READING).labels.tolist() == expected


@pytest.mark.parametrize("meanings", [LABELS, {name: name for name in CLASSES}])
def test_classes_of_the_hub_go_by_number_or_by_name(meanings: dict[Any, str], tmp_path: Path):
    write_rows(tmp_path / "claims" / "test.parquet", some_rows(4), {"label": CLASSES})
    task = one_task(tmp_path / "claims", {"test": 4}, labels=meanings)
    assert load_split(task, "test", tmp_path / "cache", READING).labels.tolist() == [0, 1, 2, 0]


def test_validation_is_held_out_of_what_is_not_dropped(tmp_path: Path):
    rows = some_rows(20, (0, -1, 1, 2))
    write_rows(tmp_path / "claims" / "validation.jsonl", rows)
    kept = [row for row in rows if row["label"] != -1]
    task = one_task(
        tmp_path / "claims",
        {"test": 12, "validation": 3},
        labels={**LABELS, -1: None},
        splits={"test": "validation"},
        validation={"part_of": "test", "share": 0.2, "draw": "last"},
    )
    test, validation = (load_split(task, split, tmp_path, READING) for split in ("test", "validation"))
    assert all_spelt(test) == sentences(kept[:12])
    assert all_spelt(validation) == sentences(kept[12:])


def rows_with(number: int, **values: Any) -> list[dict[str, Any]]:
    return [{**row, **values} if item == number else row for item, row in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("rows", "source", "message"),
    [
        (ROWS, {"first": "aa"}, r"unknown column of task 'claims': data set '.*': 'aa'.*a, b, label"),
        (ROWS, {"label": "lable"}, r"unknown column of .*: 'lable'; did you mean 'label'"),
        (ROWS, {"second": None}, r"source.second must name the column of the second sentence"),
        (ROWS, {"first": "label"}, r"split 'test' has int64 in column 'label', not sentences"),
        (
            rows_with(2, b=None),
            {},
            r"'.*claims', split 'test' has no sentence in column 'b' of item 2$",
        ),
        (
            [{**row, "a": None} for row in ROWS],
            {},
            r"column 'a', not sentences|column 'a' of items 0, 1, 2 and",
        ),
        (
            rows_with(4, a=" ", b=""),
            {},
            r"the test split of task 'claims': both sentences of item 4 are blank",
        ),
        (rows_with(3, label=None), {}, r"has 1 items without a label in column 'label' of split 'test'"),
        (
            rows_with(3, label=7),
            {},
            r"has the label 7, which source.labels does not have \(known: 0, 1, 2\); map it to a class,",
        ),
        (some_rows(7, ("0", "1")), {}, r"has the label '0', which source.labels does not have \(known: 0, 1"),
        (
            [{**row, "label": [0]} for row in ROWS],
            {},
            r"labels of type list.* in column 'label'; integers or",
        ),
        (ROWS, {"labels": None}, r"source.labels must map labels of the data set to classes, .* got None"),
        (ROWS, {"labels": {0: "entails"}}, r"unknown class in .*source.labels: 'entails'; did you mean 'ent"),
        (ROWS[:6], {}, r"the test split of task 'claims' has 6 pairs of sentences, but .* promise 7"),
        (
            some_rows(7, (-1,)),
            {},
            r"label -1 for all 7 items of split 'test': labels of that split are hidden",
        ),
        (
            some_rows(7, ("?",)),
            {"labels": {"?": None, "yes": "neutral"}},
            r"has the label '\?' for all 7 items .* hidden; name another one under source.splits",
        ),
    ],
)
@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_what_does_not_fit_is_one_message(
    form: str, rows: list[dict[str, Any]], source: dict[str, Any], message: str, tmp_path: Path
):
    write_rows(tmp_path / "claims" / f"test.{form}", rows)
    with pytest.raises(KnotsError, match=message) as caught:
        load_split(one_task(tmp_path / "claims", {"test": 7}, **source), "test", tmp_path / "cache", READING)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache" / "data").exists()


def test_names_that_contradict_the_meanings_are_refused(tmp_path: Path):
    write_rows(tmp_path / "claims" / "test.parquet", some_rows(7), {"label": CLASSES[::-1]})
    with pytest.raises(
        KnotsError, match=r"calls its label 0 'contradiction', but .* maps it to 'entailment'"
    ):
        load_split(one_task(tmp_path / "claims", {"test": 7}), "test", tmp_path / "cache", READING)


def test_an_absent_class_has_no_label(tmp_path: Path):
    write_rows(tmp_path / "claims" / "test.jsonl", ROWS)
    task = one_task(tmp_path / "claims", {"test": 7}, absent=(1,))
    with pytest.raises(KnotsError, match=r"source.labels maps 1 to 'neutral', which is among .* `absent`"):
        load_split(task, "test", tmp_path / "cache", READING)


def test_faults_of_a_folder_are_one_message(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    write_rows(tmp_path / "broken" / "test.jsonl", ROWS)
    (tmp_path / "broken" / "test.jsonl").write_text('{"a": "b"')
    (tmp_path / "pictures" / "test").mkdir(parents=True)
    shutil.copy(
        Path(__file__).parents[2] / "benchmarks/figures/mini_vision8_knots_ties.png",
        tmp_path / "pictures/test",
    )
    write_rows(tmp_path / "good" / "test.jsonl", ROWS)
    good = {"validation": "validation", "test": "tset"}
    for task, split, message in [
        (one_task(tmp_path / "absent", {"test": 7}), "test", r"there is no folder '.*absent' with data"),
        (one_task(tmp_path / "empty", {"test": 7}), "test", r"data in '.*empty' cannot be read: .*any data"),
        (one_task(tmp_path / "broken", {"test": 7}), "test", r"data in '.*broken' cannot be read: "),
        (
            one_task(tmp_path / "pictures", {"test": 7}),
            "test",
            r"'.*pictures' holds imagefolder files; parquet files, JSON lines or CSV and TSV files are read",
        ),
        (
            one_task(tmp_path / "good", {"train": 7}),
            "train",
            r"unknown split of data set '.*': 'train' \(known: test",
        ),
        (one_task(tmp_path / "good", {"test": 7}), "train", r"unknown split of task 'claims': 'train'"),
        (one_task(tmp_path / "good", {"test": 7}, splits=good), "test", r"'tset'; did you mean 'test'"),
    ]:
        with pytest.raises(KnotsError, match=message) as caught:
            load_split(task, split, tmp_path / "cache", READING)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache" / "data").exists()


def test_everything_that_changes_the_items_changes_the_identity(tmp_path: Path):
    folder = tmp_path / "claims"
    write_rows(folder / "test.jsonl", ROWS)
    write_rows(folder / "train.jsonl", some_rows(4))

    def identity(split: str = "test", **source: Any) -> dict[str, Any]:
        task = one_task(folder, {"train": 4, "test": 7}, **source)
        return source_identity(task, split, tmp_path / "cache", READING)

    held_out = {"part_of": "test", "share": 0.4, "seed": 0}
    different = [
        identity(),
        identity("train"),
        identity(first="b", second="a"),
        identity(label="other"),
        identity(labels={**LABELS, 2: "neutral"}),
        identity(labels={**LABELS, 3: None}),
        identity(labels={str(value): name for value, name in LABELS.items()}),
        identity(max_length=9),
        identity(validation=held_out),
        identity(validation={**held_out, "draw": "datasets"}),
        identity(validation={**held_out, "draw": "last"}),
    ]
    assert all(different.count(one) == 1 for one in different)
    assert identity("train", validation=held_out) == different[1]
    assert identity(labels=dict(reversed(LABELS.items()))) == different[0]
    assert identity(absent=()) == different[0]
    write_rows(folder / "test.jsonl", some_rows(8))
    assert identity() != different[0]


def real_task(shared: Path, name: str, sizes: dict[str, int], **source: Any) -> TextTask:
    columns = ("sentence_A", "sentence_B") if name == "sick" else ("text1", "text2")
    folder = shared / "data" / name
    return one_task(folder, sizes, first=columns[0], second=columns[1], max_length=9999, **source)


def test_real_sentences_of_sick(shared: Path, tmp_path: Path):
    task = real_task(shared, "sick", {"train": 4500, "validation": 500, "test": 4927})
    arrays = load_split(task, "test", tmp_path, READING)
    rows = pd.read_parquet(next((shared / "data" / "sick").glob("test-*")))
    assert arrays.labels.tolist() == rows["label"].tolist()
    assert arrays.cut == 0
    for item in (0, 17, 4926):
        expected = READING.tokenizer(rows["sentence_A"][item], rows["sentence_B"][item])["input_ids"]
        assert arrays.tokens[arrays.starts[item] : arrays.starts[item + 1]].tolist() == expected


@pytest.mark.parametrize(
    ("name", "share", "test", "validation"), [("rte", 0.5, 138, 139), ("qnli", 0.2, 4370, 1093)]
)
def test_the_references_halves_of_real_validation_sets(
    name: str, share: float, test: int, validation: int, shared: Path, tmp_path: Path
):
    task = real_task(
        shared,
        name,
        {"test": test, "validation": validation},
        absent=(1,),
        labels={0: "entailment", 1: "contradiction"},
        splits={"test": "validation"},
        validation={"part_of": "test", "share": share, "draw": "datasets", "seed": 42},
    )
    rows = pd.read_parquet(next((shared / "data" / name).glob("validation-*")))
    lengths = (rows["text1"].str.len() + rows["text2"].str.len() + 2).to_numpy()
    labels = rows["label"].to_numpy() * 2
    parts = {split: choose(task, split, labels, tmp_path) for split in ("test", "validation")}
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(rows)))
    for split, items in parts.items():
        arrays = load_split(task, split, tmp_path, READING)
        assert arrays.labels.tolist() == labels[items].tolist()
        assert arrays.lengths.tolist() == lengths[items].tolist()
