"""Tokenized splits: made once, checked when read, safe under concurrency and damage."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from knots.errors import KnotsError
from knots.suites import data, mini_nli
from knots.suites.cache import ImageArrays
from knots.suites.data import Reading, Sample, cached_split, load_split, prepare, source_identity
from knots.suites.keys import chosen_items
from knots.suites.tasks import ImageTask, TextTask
from knots.suites.text_sources import Pairs, written
from knots.suites.texts import TextArrays, TextReading
from tests.miniatures import NOISE, tiny_suite
from tests.suites.caching import build_twice_at_once, full_disk
from tests.suites.sentences import CLASSES, READING, all_spelt, character_tokenizer

TASK = TextTask("claims", CLASSES, {"test": 21}, {"kind": "words", "seed": 0}, max_length=40)
OTHER = TextReading(character_tokenizer(), {"tokenizer": "another"})


def write(task: TextTask, split: str) -> Pairs:
    numbers, seed = np.arange(task.size(split)), task.source["seed"]
    return [f"{split} {n} of {seed}" for n in numbers], [f"so {n}" for n in numbers], numbers % 3


class Counting:
    """A source that counts how often it is asked."""

    def __init__(self, write: Callable[[TextTask, str], Pairs] = write) -> None:
        self.write, self.calls = write, 0

    def __call__(self, task: TextTask, split: str) -> Pairs:
        self.calls += 1
        return self.write(task, split)


def use(monkeypatch: pytest.MonkeyPatch, source: Callable[[TextTask, str], Pairs], version: int = 1) -> None:
    words = written(source, lambda: version, ("seed",))
    monkeypatch.setattr(data, "SOURCES", {"words": words, "noise": NOISE})


def same(one: TextArrays, other: TextArrays) -> bool:
    names = ("tokens", "starts", "labels")
    return one.cut == other.cut and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in names
    )


def test_is_tokenized_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = Counting()
    use(monkeypatch, source)
    first, second = (load_split(TASK, "test", tmp_path, READING) for _ in range(2))
    assert source.calls == 1
    assert len(second) == 21
    assert same(first, second)
    pairs = write(TASK, "test")
    assert all_spelt(second) == list(zip(pairs[0], pairs[1], strict=True))
    assert second.labels.tolist() == [n % 3 for n in range(21)]
    assert (second.tokens.dtype, second.starts.dtype, second.labels.dtype) == (np.int32, np.int64, np.int64)


def test_what_is_cached_is_told_and_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = Counting()
    use(monkeypatch, source)
    assert cached_split(TASK, "test", tmp_path, READING) is None
    assert source.calls == 0
    load_split(TASK, "test", tmp_path, READING)
    folder = cached_split(TASK, "test", tmp_path, READING)
    assert folder is not None
    assert cached_split(TASK, "test", tmp_path, OTHER) is None
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert cached_split(TASK, "test", tmp_path, READING) is None
    assert source.calls == 1


def test_everything_that_determines_the_tokens_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = Counting()
    use(monkeypatch, source)
    load_split(TASK, "test", tmp_path, READING)
    for task, split in (
        (replace(TASK, source={"kind": "words", "seed": 1}), "test"),
        (replace(TASK, sizes={"test": 5}), "test"),
        (replace(TASK, sizes={"validation": 21}), "validation"),
        (replace(TASK, max_length=20), "test"),
        (replace(TASK, classes=CLASSES[::-1]), "test"),
        (replace(TASK, name="other"), "test"),
    ):
        load_split(task, split, tmp_path, READING)
    load_split(TASK, "test", tmp_path, OTHER)
    load_split(TASK, "test", tmp_path, READING, Sample(3, 0))
    use(monkeypatch, source, version=2)
    load_split(TASK, "test", tmp_path, READING)
    assert source.calls == 10
    # What is published decides nothing.
    load_split(replace(TASK, published={"a model": 90.0}), "test", tmp_path, READING)
    assert source.calls == 10


def test_a_sample_is_drawn_as_one_of_pictures_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch, write)
    whole = all_spelt(load_split(TASK, "test", tmp_path, READING))
    sample = load_split(TASK, "test", tmp_path, READING, Sample(5, 7))
    numbers = chosen_items(21, Sample(5, 7))
    assert all_spelt(sample) == [whole[number] for number in numbers]
    assert sample.labels.tolist() == (numbers % 3).tolist()
    assert len(load_split(TASK, "test", tmp_path, READING, Sample(22, 0))) == 21
    pictures = tiny_suite({"numbers": 21}).image_tasks[0]
    images = load_split(pictures, "test", tmp_path)
    drawn = load_split(pictures, "test", tmp_path, sample=Sample(5, 7))
    np.testing.assert_array_equal(drawn.images, images.images[numbers])


def test_cut_pairs_are_counted_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    use(monkeypatch, write)
    task = replace(TASK, max_length=18)
    arrays = [load_split(task, "test", tmp_path, READING) for _ in range(2)]
    assert [one.cut for one in arrays] == [11, 11]  # "test 10 of 0" with "so 10" has 12 + 5 + 2 tokens
    assert arrays[0].lengths.max() == 18
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.getMessage() == (
        "the test split of task 'claims': 11 of 21 pairs are longer than 18 tokens and were cut"
    )


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other", "metadata", "folder"])
def test_a_damaged_cache_is_built_again(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    source = Counting()
    use(monkeypatch, source)
    first = load_split(TASK, "test", tmp_path, READING)
    (file,) = (tmp_path / "data").glob("*/*")
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[:-100])
    elif damage == "flipped":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "other":
        file.write_bytes(content.replace(b"starts", b"ztarts"))
    elif damage == "metadata":
        file.write_bytes(content.replace(b'"cut":"0"', b'"cut":"1"'))
    else:
        file.unlink()
    again = load_split(TASK, "test", tmp_path, READING)
    assert source.calls == 2
    assert same(first, again)
    warned = [record for record in caplog.records if "is damaged" in record.getMessage()]
    assert len(warned) == (damage != "folder")
    load_split(TASK, "test", tmp_path, READING)
    assert source.calls == 2


def test_a_failure_leaves_nothing_that_looks_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch, write)
    with full_disk(monkeypatch):
        load_split(TASK, "test", tmp_path, READING)
    assert list((tmp_path / "data").glob("*/*")) == []
    assert len(load_split(TASK, "test", tmp_path, READING)) == 21


def test_no_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch, write)
    for _ in range(2):
        arrays = load_split(replace(TASK, sizes={"test": 0}), "test", tmp_path, READING)
        assert (len(arrays), arrays.starts.tolist()) == (0, [0])


def test_an_absent_class_is_refused_from_the_cache_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = Counting()
    use(monkeypatch, source)
    load_split(TASK, "test", tmp_path, READING)
    with pytest.raises(
        KnotsError, match=r"test split of task 'claims' has 7 items of class 'neutral', which"
    ):
        load_split(replace(TASK, absent=(1,)), "test", tmp_path, READING)
    assert source.calls == 1


@pytest.mark.parametrize(
    ("count", "labels", "message"),
    [
        (20, np.zeros(20, np.int64), "has 20 pairs of sentences, but its `sizes` promise 21"),
        (21, np.full(21, 3), "labels from 3 to 3.*has 3 classes"),
        (21, np.full(21, -1), "labels from -1 to -1"),
    ],
)
def test_wrong_content_is_refused(
    count: int, labels: np.ndarray, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    use(monkeypatch, lambda *_: (["a"] * count, ["b"] * count, labels))
    with pytest.raises(KnotsError, match=message):
        load_split(TASK, "test", tmp_path, READING)
    assert not list(tmp_path.rglob("*"))


def test_prepare_takes_tasks_of_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = Counting()
    use(monkeypatch, source)
    wrong = replace(TASK, name="c", source={"kind": "wrods"})
    message = r"'c': 'wrods'; did you mean 'words'.*\(known: words\) \(the data of the other task is ready"
    with pytest.raises(KnotsError, match=message):
        prepare([(TASK, "test"), (wrong, "test")], tmp_path, READING)
    prepare([(TASK, "test")], tmp_path, READING)
    assert source.calls == 1


def test_kinds_of_the_other_modality_are_unknown(tmp_path: Path):
    words = replace(TASK, source={"kind": "images"})
    with pytest.raises(
        KnotsError, match=r"unknown kind of source of task 'claims': 'images' .*mini_nli, pairs"
    ):
        load_split(words, "test", tmp_path, READING)
    pictures = replace(tiny_suite().image_tasks[0], source={"kind": "pairs"})
    with pytest.raises(KnotsError, match=r"unknown kind of source of task 'numbers': 'pairs' .*images, mini"):
        load_split(pictures, "test", tmp_path)
    mistyped = replace(TASK, source={"kind": "pairs", "frist": "a"})
    with pytest.raises(
        KnotsError, match=r"unknown key of the source of task 'claims': 'frist'; did you mean"
    ):
        load_split(mistyped, "test", tmp_path, READING)


def test_a_reading_of_the_other_modality_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch, write)
    pictures = tiny_suite().image_tasks[0]
    for reading in (Reading(), None):
        with pytest.raises(TypeError, match="task 'claims' is of sentences: it needs a TextReading"):
            load_split(TASK, "test", tmp_path, reading)
    with pytest.raises(TypeError, match="task 'numbers' is of images: it needs a Reading, not a TextReading"):
        load_split(pictures, "test", tmp_path, READING)
    with pytest.raises(TypeError, match="task 'claims' is of sentences"):
        source_identity(TASK, "test", tmp_path, Reading())
    with pytest.raises(TypeError, match="task 'numbers' is of images"):
        source_identity(pictures, "test", tmp_path, READING)


def test_what_comes_back_is_of_the_tasks_modality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch, write)
    task: ImageTask = tiny_suite().image_tasks[0]
    assert isinstance(load_split(task, "test", tmp_path), ImageArrays)
    assert isinstance(load_split(TASK, "test", tmp_path, READING), TextArrays)


def test_generated_tasks_are_a_source(tmp_path: Path):
    for seed, source in ((0, {"kind": "mini_nli"}), (4, {"kind": "mini_nli", "seed": 4})):
        task = replace(TASK, name="scenes", max_length=200, source=source)
        arrays = load_split(task, "test", tmp_path, READING)
        first, second, labels = mini_nli.draw_pairs("scenes", "test", 21, seed)
        assert all_spelt(arrays) == list(zip(first, second, strict=True))
        np.testing.assert_array_equal(arrays.labels, labels)
        identity = source_identity(task, "test", tmp_path, READING)
        assert identity["source"] == {**source, "version": mini_nli.VERSION}


LOAD = """
import sys
import zlib
import numpy as np
from knots.suites import data
from knots.suites.tasks import TextTask
from knots.suites.text_sources import written
from knots.suites.texts import TextReading

class Tokenizer:  # the real ones take seconds to import
    def num_special_tokens_to_add(self, pair):
        return 0

    def __call__(self, first, second, **options):
        return {"input_ids": [list((a + b).encode()) for a, b in zip(first, second)]}

def write(task, split):
    return [f"a {n}" for n in range(5000)], ["b"] * 5000, np.arange(5000) % 2

data.SOURCES = {"words": written(write, lambda: 1, ())}
task = TextTask("words", ("a", "b"), {"test": 5000}, {"kind": "words"}, max_length=99)
print(zlib.crc32(data.load_split(task, "test", sys.argv[1], TextReading(Tokenizer(), {})).tokens))
"""


def test_two_processes_at_once(tmp_path: Path):
    build_twice_at_once(LOAD, tmp_path)
    assert len(list((tmp_path / "data").glob("*/*"))) == 1
