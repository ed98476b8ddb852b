"""Real image tasks: from folders and from a hub on loopback, with the real `datasets`."""

import io
import json
import logging
import os
import shutil
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from knots.errors import KnotsError
from knots.suites import images, listings, sources
from knots.suites.cache import PIECE
from knots.suites.data import Reading, Sample, load_split, prepare, source_identity
from knots.suites.listings import content_of, list_split
from knots.suites.tasks import ImageTask
from knots.suites.transforms import Transform, make_transform
from tests.hub import Hub, files_of

SIDE = 8
CLASSES = ("stop", "yield", "train_station")
TRANSFORM = make_transform(
    "clip", SIDE, {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
)
OTHER = make_transform("open_clip", SIDE, {})
READING = Reading(TRANSFORM, workers=2)
SIZES = {"train": 7, "test": 5}

README = b"""---
configs:
- config_name: plain
  data_files: [{split: train, path: plain/train-*}, {split: test, path: plain/test-*}]
- config_name: noisy
  data_files: [{split: test, path: noisy/test-*}, {split: fog, path: noisy/fog-*}]
---
"""


@pytest.fixture(autouse=True)
def _a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "_answers", {})


def forget() -> None:
    """As if a new process began."""
    listings._answers.clear()


def picture(number: int, seed: int = 0) -> np.ndarray:
    """A picture whose pixels tell it from others, [9, 12, 3]."""
    return np.random.default_rng([seed, number]).integers(0, 256, size=(9, 12, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def expected(count: int, seed: int = 0, transform: Transform = TRANSFORM) -> np.ndarray:
    return np.stack([transform(Image.fromarray(picture(i, seed))) for i in range(count)])


def write_parquet(
    path: Path,
    count: int,
    seed: int = 0,
    start: int = 0,
    *,
    contents: Sequence[bytes | None] | None = None,
    labels: Sequence[Any] | None = None,
    names: Sequence[str] | None = CLASSES,
    columns: tuple[str, str] = ("image", "label"),
) -> None:
    """One parquet file in the hub's schema: pictures `start` to `start + count` of a seed."""
    numbers = range(start, start + count)
    contents = contents or [encoded(picture(number, seed)) for number in numbers]
    labels = [number % 3 for number in numbers] if labels is None else list(labels)
    label = datasets.ClassLabel(names=list(names)) if names else datasets.Value(_type_of(labels))
    features = datasets.Features({columns[0]: datasets.Image(), columns[1]: label})
    pictures = [c if c is None else {"bytes": c, "path": f"{i}.png"} for i, c in enumerate(contents)]
    rows = {columns[0]: pictures, columns[1]: labels}
    path.parent.mkdir(parents=True, exist_ok=True)
    with listings.no_bars():
        datasets.Dataset.from_dict(rows, features=features).to_parquet(path)


def _type_of(labels: Sequence[Any]) -> str:
    return {int: "int64", str: "string", float: "float64", bool: "bool"}[type(labels[0])]


def parquet_folder(folder: Path, **options: Any) -> Path:
    """Train in one file, test in two."""
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", 7, seed=1)
    write_parquet(folder / "data" / "test-00000-of-00002.parquet", 3, **options)
    write_parquet(folder / "data" / "test-00001-of-00002.parquet", 2, start=3)
    return folder


def picture_folder(folder: Path, classes: Sequence[str] = CLASSES, form: str = "png") -> Path:
    """One folder a class, in both splits; two pictures each for training, one for testing."""
    for split, count in (("train", 2), ("test", 1)):
        for place, name in enumerate(classes):
            target = folder / split / name
            target.mkdir(parents=True)
            for number in range(count):
                pixels = picture(place, seed=number + (split == "test") * 10)
                Image.fromarray(pixels).save(target / f"{number}.{form}")
    return folder


def one_task(path: Path | str, sizes: Mapping[str, int] | None = None, **source: Any) -> ImageTask:
    splits = {"train": "train", "test": "test"}
    options = {"kind": "images", "path": str(path), "splits": splits, "validation": None, **source}
    return ImageTask("signs", CLASSES, ("a {}",), sizes or SIZES, options)


def identity(path: Path | str, cache: Path, split: str = "test", **source: Any) -> Mapping[str, Any]:
    return source_identity(one_task(path, **source), split, cache, READING)


# Folders


def test_a_folder_of_parquet_files(tmp_path: Path):
    task = one_task(parquet_folder(tmp_path / "signs"))
    arrays = load_split(task, "test", tmp_path / "cache", READING)
    np.testing.assert_array_equal(arrays.images, expected(5))
    assert arrays.labels.tolist() == [0, 1, 2, 0, 1]
    assert arrays.broken == ()
    train = load_split(task, "train", tmp_path / "cache", READING)
    np.testing.assert_array_equal(train.images, expected(7, seed=1))
    # Without the folder, other settings of it are refused, and nothing else is left in the cache.
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"data", "hashes.json"}


def test_validation_is_held_out_of_a_folder(tmp_path: Path):
    folder = parquet_folder(tmp_path / "signs")
    held_out = {"part_of": "train", "share": 0.3, "seed": 0}
    task = one_task(folder, {"train": 5, "validation": 2, "test": 5}, validation=held_out)
    train, validation = (
        load_split(task, split, tmp_path / "cache", READING) for split in ("train", "validation")
    )
    pixels = {one.tobytes() for arrays in (train, validation) for one in arrays.images}
    assert pixels == {one.tobytes() for one in expected(7, seed=1)}


@pytest.mark.parametrize("number", [0, PIECE - 1, PIECE, PIECE + 3])
def test_any_number_of_pictures(number: int, tmp_path: Path):
    contents = [encoded(np.full((SIDE, SIDE, 3), i % 251, np.uint8)) for i in range(number + 1)]
    write_parquet(tmp_path / "signs" / "test.parquet", number + 1, contents=contents)
    task = one_task(tmp_path / "signs", {"test": number + 1}, splits={"test": "test"})
    arrays = load_split(task, "test", tmp_path / "cache", READING)
    assert arrays.images[:, 0, 0, 0].tolist() == [i % 251 for i in range(number + 1)]


def test_pictures_need_a_size(tmp_path: Path):
    task = one_task(parquet_folder(tmp_path / "signs"))
    with pytest.raises(KnotsError, match="task 'signs': pictures of any size need a transform"):
        load_split(task, "test", tmp_path / "cache")


def test_a_folder_of_pictures(tmp_path: Path):
    task = one_task(picture_folder(tmp_path / "signs"), {"train": 6, "test": 3})
    test = load_split(task, "test", tmp_path / "cache", READING)
    # `datasets` numbers classes by their sorted names, in which train_station is before yield.
    assert test.labels.tolist() == [0, 2, 1]
    pixels = [TRANSFORM(Image.fromarray(picture(place, seed=10))) for place in (0, 2, 1)]
    np.testing.assert_array_equal(test.images, pixels)
    train = load_split(task, "train", tmp_path / "cache", READING)
    assert train.labels.tolist() == [0, 0, 2, 2, 1, 1]


def test_a_class_called_as_a_split_stays_in_its_split(tmp_path: Path):
    folder = picture_folder(tmp_path / "signs", ("val_road", "train_station", "test"))
    for split, each in (("train", 2), ("test", 1)):
        files = list_split(one_task(folder).source, split, tmp_path / "cache").files[split]
        assert len(set(files)) == len(files) == 3 * each
        assert all(file.startswith(f"{split}/") for file in files)


def test_other_names_of_classes_are_read_by_number(tmp_path: Path):
    folder = picture_folder(tmp_path / "signs", ("a", "b", "c"))
    arrays = load_split(one_task(folder, {"test": 3}), "test", tmp_path / "cache", READING)
    assert arrays.labels.tolist() == [0, 1, 2]


def test_names_that_only_some_are_the_tasks_must_be_at_its_numbers(tmp_path: Path):
    fits = picture_folder(tmp_path / "fits", ("stop", "t", "z"))
    assert len(load_split(one_task(fits, {"test": 3}), "test", tmp_path / "cache", READING)) == 3
    folder = picture_folder(tmp_path / "signs", ("a stop", "stop", "yield"))
    with pytest.raises(
        KnotsError, match=r"class 'stop' as number 1, the task as number 0; .* no class 'a stop'"
    ):
        load_split(one_task(folder, {"test": 3}), "test", tmp_path / "cache", READING)


def test_a_folder_of_a_class_is_missing(tmp_path: Path):
    folder = picture_folder(tmp_path / "signs", CLASSES[:2])
    with pytest.raises(KnotsError, match=r"data set '.*signs' has 2 classes, the task has 3"):
        load_split(one_task(folder, {"test": 3}), "test", tmp_path / "cache", READING)


def repository(root: Path) -> dict[str, bytes | Path]:
    """A data set with two configurations and several files a split."""
    for count, name in ((7, "train-00000-of-00001"), (3, "test-00000-of-00002"), (2, "test-00001-of-00002")):
        write_parquet(root / "plain" / f"{name}.parquet", count, start=3 * ("00001-of-00002" in name))
    for name in ("test", "fog"):
        write_parquet(root / "noisy" / f"{name}-00000-of-00001.parquet", 5, seed=5)
    (root / "README.md").write_bytes(README)
    return files_of(root)


@pytest.mark.parametrize("linked", [False, True])
def test_a_copy_of_a_hub_repository(linked: bool, tmp_path: Path):
    """As `git clone` makes it, or as it lies in the hub's cache: links to files without names."""
    folder = tmp_path / "snapshots" / "abc"
    repository(folder)
    if linked:
        (tmp_path / "blobs").mkdir()
        for number, file in enumerate([path for path in folder.rglob("*") if path.is_file()]):
            file.rename(tmp_path / "blobs" / str(number))
            file.symlink_to(os.path.relpath(tmp_path / "blobs" / str(number), file.parent))
    plain = load_split(one_task(folder, config="plain"), "test", tmp_path / "cache", READING)
    noisy = load_split(one_task(folder, config="noisy"), "test", tmp_path / "cache", READING)
    np.testing.assert_array_equal(plain.images, expected(5))
    np.testing.assert_array_equal(noisy.images, expected(5, seed=5))


@pytest.mark.parametrize("how", ["relative", "link", "with dots", "home"])
def test_a_folder_by_other_paths(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = parquet_folder(tmp_path / "signs")
    straight = identity(folder, tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(folder)
    path = {"relative": "signs", "link": "link", "with dots": "cache/../signs", "home": "~/signs"}[how]
    assert identity(path, Path("cache")) == straight
    arrays = load_split(one_task(path), "test", "cache", READING)
    np.testing.assert_array_equal(arrays.images, expected(5))


def test_two_relative_folders_of_one_name_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    keys = []
    for place, seed in (("a", 0), ("b", 3)):
        write_parquet(tmp_path / place / "signs" / "test.parquet", 4, seed)
        os.utime(tmp_path / place / "signs" / "test.parquet", ns=(0, 0))
        monkeypatch.chdir(tmp_path / place)
        keys.append(identity("signs", tmp_path / "cache"))
    assert keys[0] != keys[1]


# What is wrong with a folder


def test_faults_of_a_folder_are_one_message(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "test.txt").write_text("hello")
    broken = parquet_folder(tmp_path / "broken")
    file = broken / "data" / "test-00001-of-00002.parquet"
    file.write_bytes(file.read_bytes()[:-200])
    two = tmp_path / "two"
    repository(two)
    sizes = {"train": 7, "test": 5, "validation": 1}
    splits = {"train": "train", "test": "tset", "validation": "validation"}
    for task, split, message in [
        (one_task(tmp_path / "absent"), "test", r"there is no folder '.*absent' with data"),
        (one_task("signs"), "test", r"there is no folder 'signs' with data"),
        (one_task(tmp_path / "empty"), "test", r"data in '.*empty' cannot be read: .*any data files"),
        (one_task(tmp_path / "text"), "test", r"'.*text' holds text files; parquet files or folders of"),
        (one_task(broken), "test", r"data in '.*broken' cannot be read: .*(?i:parquet)"),
        (one_task(two), "test", r"data set '.*two' needs a `config` \(known: plain, noisy\)"),
        (
            one_task(two, config="nosy"),
            "test",
            r"unknown config of data set '.*two': 'nosy'; did you mean 'noisy'",
        ),
        (one_task(two, config="noisy"), "train", r"unknown split of data set '.*two': 'train'.*fog, test"),
        (one_task(broken), "validation", r"unknown split of task 'signs': 'validation'"),
        (one_task(broken, sizes), "validation", r"unknown split of the source of task 'signs': 'validation'"),
        (one_task(broken, splits=splits), "test", r"'tset'; did you mean 'test'"),
    ]:
        with pytest.raises(KnotsError, match=message) as caught:
            load_split(task, split, tmp_path / "cache", READING)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache" / "data").exists()


@pytest.mark.parametrize(
    ("options", "source", "message"),
    [
        ({}, {"image": "img"}, r"unknown column of task 'signs': data set '.*': 'img'.*image, label"),
        ({}, {"label": "lable"}, r"unknown column of .*: 'lable'; did you mean 'label'"),
        ({}, {"image": "label"}, r"has no images in column 'label', but ClassLabel"),
        ({"labels": ["a", "b", "c"], "names": None}, {}, r"labels of type .* in column 'label'; integers"),
        ({"labels": [0.0, 1.0, 2.0], "names": None}, {}, r"labels of type float.* in column 'label'"),
        ({"labels": [0, -1, 2], "names": None}, {}, r"test split of task 'signs' has labels from -1 to 2"),
        ({"labels": [0, -1, 2]}, {}, r"labels from -1 to 2, but the task has 3 classes"),
        ({"labels": [0, 1, 3], "names": None}, {}, r"labels from 0 to 3, but the task has 3 classes"),
        ({"names": (*CLASSES, "more")}, {}, r"has 4 classes, the task has 3"),
        ({"names": CLASSES[:2], "labels": [0, 1, 0]}, {}, r"has 2 classes, the task has 3"),
    ],
)
def test_columns_that_do_not_fit(
    options: dict[str, Any], source: dict[str, Any], message: str, tmp_path: Path
):
    write_parquet(tmp_path / "signs" / "test.parquet", 3, **options)
    with pytest.raises(KnotsError, match=message):
        load_split(one_task(tmp_path / "signs", {"test": 3}, **source), "test", tmp_path / "cache", READING)
    assert not (tmp_path / "cache" / "data").exists()


def test_other_columns_and_numbers_without_names(tmp_path: Path):
    path = tmp_path / "signs" / "test.parquet"
    write_parquet(path, 3, labels=[2, 0, 1], names=None, columns=("img", "fine_label"))
    task = one_task(tmp_path / "signs", {"test": 3}, image="img", label="fine_label")
    arrays = load_split(task, "test", tmp_path / "cache", READING)
    assert arrays.labels.tolist() == [2, 0, 1]


def test_plain_bytes_are_pictures_too(tmp_path: Path):
    """As pandas writes them: no features of the hub's beside the columns."""
    (tmp_path / "signs").mkdir()
    rows = {"image": [{"bytes": encoded(picture(i))} for i in range(3)], "label": [0, 1, 2]}
    pd.DataFrame(rows).to_parquet(tmp_path / "signs" / "test.parquet")
    arrays = load_split(one_task(tmp_path / "signs", {"test": 3}), "test", tmp_path / "cache", READING)
    np.testing.assert_array_equal(arrays.images, expected(3))


def test_another_count_is_refused(tmp_path: Path):
    task = one_task(parquet_folder(tmp_path / "signs"), {"test": 6})
    message = r"the test split of task 'signs' has 5 images and 5 labels, but its `sizes` promise 6"
    with pytest.raises(KnotsError, match=message):
        load_split(task, "test", tmp_path / "cache", READING)


# Broken pictures


# What Pillow says of a JPEG that ends too soon, before it refuses it.
TRUNCATED = pytest.mark.filterwarnings("ignore:Truncated File Read:UserWarning")


def broken_folder(folder: Path) -> Path:
    """Of five test pictures the second is truncated, the third no picture and the fifth absent."""
    good = [encoded(picture(i), form) for i, form in enumerate(("PNG", "JPEG", "PNG"))]
    parquet_folder(folder, contents=[good[0], good[1][:200], b"no picture"])
    write_parquet(folder / "data" / "test-00001-of-00002.parquet", 2, start=3, contents=[good[2], None])
    return folder


@TRUNCATED
def test_broken_pictures_are_named_and_counted_in_one_message(tmp_path: Path):
    task = one_task(broken_folder(tmp_path / "signs"))
    for _ in range(2):  # the second time from the cache
        with pytest.raises(KnotsError) as caught:
            load_split(task, "test", tmp_path / "cache", READING)
        message = str(caught.value)
        assert message.startswith("the test split of task 'signs': 3 of 5 images are broken: ")
        assert "item 1 of 'test', 1.png (image file is truncated" in message
        assert "item 2 of 'test', 2.png (no image format that is known)" in message
        assert "item 4 of 'test' (there is no picture)" in message
        assert "data.skip_broken=true" in message
        assert "0x" not in message
        assert "\n" not in message


@TRUNCATED
def test_broken_pictures_are_skipped_on_demand(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    task = one_task(broken_folder(tmp_path / "signs"))
    for number in range(2):
        caplog.clear()
        arrays = load_split(task, "test", tmp_path / "cache", replace(READING, skip_broken=True))
        np.testing.assert_array_equal(arrays.images[0], expected(1)[0])
        assert arrays.labels.tolist() == [0, 0]
        assert len(arrays.broken) == 3
        (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert "3 of 5 images are broken" in warning.getMessage(), number
        assert "They are left out" in warning.getMessage()
    # One cache for both: it remembers what is broken.
    with pytest.raises(KnotsError, match="3 of 5 images are broken"):
        load_split(task, "test", tmp_path / "cache", READING)
    assert len(list((tmp_path / "cache" / "data").iterdir())) == 1


def test_many_broken_pictures_are_counted(tmp_path: Path):
    write_parquet(tmp_path / "signs" / "test.parquet", 9, contents=[b"x"] * 9)
    with pytest.raises(KnotsError, match=r"9 of 9 images are broken: .*item 2 of 'test'.*; and 6 more\."):
        load_split(one_task(tmp_path / "signs", {"test": 9}), "test", tmp_path / "cache", READING)


def test_a_file_that_is_gone_is_a_broken_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = picture_folder(tmp_path / "signs")
    decode = images.decode

    def removed(raw: dict[str, Any]) -> Image.Image:
        Path(raw["path"]).unlink(missing_ok=True)
        return decode(raw)

    monkeypatch.setattr(images, "decode", removed)
    with pytest.raises(
        KnotsError, match=r"3 of 3 images are broken: item 0 of 'test', 0.png \(.*No such file"
    ):
        load_split(one_task(folder, {"test": 3}), "test", tmp_path / "cache", READING)


@pytest.mark.parametrize(
    "trouble", [MemoryError(), OSError(24, "Too many open files"), UserWarning("as -W error makes it")]
)
def test_trouble_of_the_machine_is_not_the_pictures(
    trouble: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    task = one_task(parquet_folder(tmp_path / "signs"))

    def fail(raw: object) -> None:
        raise trouble

    with monkeypatch.context() as patch:
        patch.setattr(images, "decode", fail)
        with pytest.raises(type(trouble)):
            load_split(task, "test", tmp_path / "cache", replace(READING, skip_broken=True))
    assert len(load_split(task, "test", tmp_path / "cache", READING)) == 5
    assert not list((tmp_path / "cache").glob(".datasets-*"))


def test_a_picture_is_not_turned_by_its_exif(tmp_path: Path):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # the reference's loaders do not look at it
    Image.fromarray(picture(0)).save(file, "PNG", exif=exif)
    write_parquet(tmp_path / "signs" / "test.parquet", 1, contents=[file.getvalue()])
    arrays = load_split(one_task(tmp_path / "signs", {"test": 1}), "test", tmp_path / "cache", READING)
    np.testing.assert_array_equal(arrays.images, expected(1))


# Samples


def test_of_a_sample_only_its_pictures_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    contents = [encoded(picture(i)) for i in range(40)]
    write_parquet(tmp_path / "signs" / "test.parquet", 40, contents=contents)
    task = one_task(tmp_path / "signs", {"test": 40})
    whole = load_split(task, "test", tmp_path / "cache", READING)
    decoded = []
    decode = images.decode
    monkeypatch.setattr(sources.images, "decode", lambda raw: decoded.append(raw["bytes"]) or decode(raw))
    drawn = [load_split(task, "test", tmp_path / "cache", READING, Sample(6, seed)) for seed in (0, 0, 1)]
    assert len(decoded) == 12
    assert len(set(decoded[:6])) == 6
    rows = {image.tobytes(): number for number, image in enumerate(whole.images)}
    numbers = [[rows[image.tobytes()] for image in one.images] for one in drawn]
    assert numbers[0] == numbers[1] == sorted(set(numbers[0])) != numbers[2]
    for one, chosen in zip(drawn, numbers, strict=True):
        assert one.labels.tolist() == whole.labels[chosen].tolist()
    assert len(load_split(task, "test", tmp_path / "cache", READING, Sample(99, 0))) == 40


def test_broken_pictures_of_a_sample_are_counted_among_it(tmp_path: Path):
    write_parquet(tmp_path / "signs" / "test.parquet", 9, contents=[b"x"] * 9)
    task = one_task(tmp_path / "signs", {"test": 9})
    with pytest.raises(KnotsError, match=r"4 of 4 images are broken"):
        load_split(task, "test", tmp_path / "cache", READING, Sample(4, 0))


def test_prepare_keeps_what_it_has_and_names_every_failure(tmp_path: Path):
    good = replace(one_task(parquet_folder(tmp_path / "good")), name="good")
    absent = replace(one_task(tmp_path / "absent"), name="absent")
    short = replace(one_task(tmp_path / "good", {"test": 4}), name="short")
    with pytest.raises(KnotsError) as caught:
        prepare([(absent, "test"), (good, "test"), (short, "test")], tmp_path / "cache", READING)
    message = str(caught.value)
    assert "no folder" in message
    assert "'short' has 5 images" in message
    assert message.endswith("(the data of the other task is ready and kept)")
    assert [path.name.split("-")[0] for path in (tmp_path / "cache" / "data").iterdir()] == ["good"]
    prepare([(good, "test"), (good, "train")], tmp_path / "cache", READING)


# What tells data sets from each other


def test_content_counts_and_not_where_it_lies(tmp_path: Path):
    first = parquet_folder(tmp_path / "signs")
    second = shutil.copytree(first, tmp_path / "elsewhere" / "copy")
    cache = tmp_path / "cache"
    assert identity(first, cache) == identity(second, cache)
    load_split(one_task(first), "test", cache, READING)
    load_split(one_task(second), "test", cache, READING)
    assert len(list((cache / "data").iterdir())) == 1
    # One byte of one file; of another split; another name.
    before = {split: identity(second, cache, split) for split in ("train", "test")}
    file = second / "data" / "test-00001-of-00002.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    assert identity(second, cache) != before["test"]
    assert identity(second, cache, "train") == before["train"]
    file.write_bytes(content)
    assert identity(second, cache) == before["test"]
    file.rename(second / "data" / "test-00000-of-00003.parquet")
    assert identity(second, cache) != before["test"]


def test_everything_that_changes_the_items_changes_the_identity(tmp_path: Path):
    folder = parquet_folder(tmp_path / "signs")
    held_out = {"part_of": "test", "share": 0.4, "seed": 0}
    different = [
        identity(folder, tmp_path),
        identity(folder, tmp_path, "train"),
        identity(folder, tmp_path, label="other"),
        identity(folder, tmp_path, validation=held_out),
        identity(folder, tmp_path, validation={**held_out, "seed": 1}),
        source_identity(one_task(folder), "test", tmp_path, Reading(OTHER)),
    ]
    assert all(different.count(one) == 1 for one in different)
    assert json.loads(json.dumps(different[3])) == different[3]
    many = source_identity(one_task(folder), "test", tmp_path, Reading(TRANSFORM, True, 9))
    assert many == different[0]
    assert identity(folder, tmp_path, "train", validation=held_out) == different[1]


def test_hashes_are_remembered_by_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, cache = parquet_folder(tmp_path / "signs"), tmp_path / "cache"
    hashed = []
    digest = listings.hashlib.file_digest
    monkeypatch.setattr(
        listings.hashlib, "file_digest", lambda f, kind: hashed.append(f.name) or digest(f, kind)
    )
    first = identity(folder, cache)
    assert len(hashed) == 2
    assert identity(folder, cache) == first
    assert len(hashed) == 2
    file = folder / "data" / "test-00000-of-00002.parquet"
    os.utime(file, ns=(0, 12345))
    assert identity(folder, cache) == first
    assert len(hashed) == 3
    (cache / "hashes.json").write_text("[damaged")
    assert identity(folder, cache) == first
    (cache / "hashes.json").write_text("[]")
    assert identity(folder, cache) == first
    assert len(hashed) == 7


def test_thousands_of_files(tmp_path: Path):
    names = tuple(f"train/{number % 40}/{number}.png" for number in range(4000))
    for name in names:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(name.encode())
    listing = listings.Listing(str(tmp_path / "data"), "imagefolder", {"train": names}, None)
    first = content_of(listing, tmp_path)
    assert content_of(listing, tmp_path) == first
    assert (tmp_path / "hashes.json").stat().st_size < 1_000_000
    # What is asked of the hub does not grow with the pictures.
    remote = replace(listing, commit="0" * 40)
    assert remote._patterns() == sorted(f"train/{number}/*.png" for number in range(40))


# The hub


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | Path]:
    return repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture
def stocked(hub: Hub, signs: dict[str, bytes | Path]) -> Hub:
    hub.datasets["me/signs"] = dict(signs)
    return hub


def data_files(hub: Hub) -> list[str]:
    return sorted(name for name in set(hub.downloads) if name.endswith(("parquet", "png")))


PLAIN = ["me/signs/plain/test-00000-of-00002.parquet", "me/signs/plain/test-00001-of-00002.parquet"]


def test_only_the_split_is_downloaded_and_only_once(stocked: Hub, tmp_path: Path):
    task = one_task("me/signs", config="plain")
    arrays = load_split(task, "test", tmp_path / "cache", READING)
    np.testing.assert_array_equal(arrays.images, expected(5))
    assert data_files(stocked) == PLAIN
    forget()
    stocked.downloads.clear()
    load_split(task, "test", tmp_path / "cache", READING)
    load_split(task, "test", tmp_path / "cache", Reading(OTHER))
    assert data_files(stocked) == []
    noisy = load_split(one_task("me/signs", config="noisy"), "test", tmp_path / "cache", READING)
    np.testing.assert_array_equal(noisy.images, expected(5, seed=5))
    assert data_files(stocked) == ["me/signs/noisy/test-00000-of-00001.parquet"]


def test_nothing_is_left_behind(stocked: Hub, tmp_path: Path):
    before = {thread for thread in threading.enumerate() if not thread.daemon}
    load_split(one_task("me/signs", config="plain"), "test", tmp_path / "cache", READING)
    assert {thread for thread in threading.enumerate() if not thread.daemon} - before == set()
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"data", "listings"}
    # The hub's cache holds the files; `datasets` keeps nothing.
    assert not list((tmp_path / "huggingface").glob("datasets/**/*"))


def test_a_process_reads_one_commit(stocked: Hub, tmp_path: Path):
    task = one_task("me/signs", config="plain")
    before = source_identity(task, "test", tmp_path / "cache", READING)
    stocked.datasets["me/signs"] = {**stocked.datasets["me/signs"], "new.txt": b"uploaded meanwhile"}
    assert source_identity(task, "test", tmp_path / "cache", READING) == before
    assert len([line for line in stocked.requests if line == "GET /api/datasets/me/signs"]) <= 1
    forget()
    assert source_identity(task, "test", tmp_path / "cache", READING) != before


def test_without_the_network(stocked: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    task = one_task("me/signs", config="plain")
    first = load_split(task, "test", tmp_path / "cache", READING)
    stocked.stop()
    forget()
    again = load_split(task, "test", tmp_path / "cache", READING)
    np.testing.assert_array_equal(again.images, first.images)
    # The hub's cache serves what is transformed in another way.
    other = load_split(task, "test", tmp_path / "cache", Reading(OTHER))
    np.testing.assert_array_equal(other.images, expected(5, transform=OTHER))
    (warning,) = [record for record in caplog.records if record.name == listings.__name__]
    assert "cannot be reached" in warning.getMessage()
    assert stocked.commit("me/signs", "dataset") in warning.getMessage()
    # What was never asked for cannot be had.
    with pytest.raises(KnotsError, match=r"data set 'me/signs':.* cannot be reached"):
        load_split(task, "train", tmp_path / "cache", READING)


def test_a_pinned_revision_is_listed_once(stocked: Hub, tmp_path: Path):
    old = dict(stocked.datasets["me/signs"])
    stocked.datasets["me/signs@v1"] = old
    stocked.datasets["me/signs"] = {
        **old,
        "plain/test-00000-of-00002.parquet": old["noisy/test-00000-of-00001.parquet"],
    }
    commit = stocked.commit("me/signs@v1", "dataset")
    keys = []
    for revision in ("v1", commit):
        task = one_task("me/signs", config="plain", revision=revision)
        arrays = load_split(task, "test", tmp_path / "cache", READING)
        np.testing.assert_array_equal(arrays.images, expected(5))
        keys.append(source_identity(task, "test", tmp_path / "cache", READING))
    assert keys[0] == keys[1] != identity("me/signs", tmp_path / "cache", config="plain")
    # A commit never changes: nobody is asked again.
    forget()
    stocked.requests.clear()
    assert source_identity(task, "test", tmp_path / "cache", READING) == keys[1]
    assert stocked.requests == []
    with pytest.raises(KnotsError, match=r"'me/signs' has no revision 'v2'"):
        load_split(one_task("me/signs", revision="v2"), "test", tmp_path / "cache", READING)


def test_a_hub_that_was_never_reached(hub: Hub, tmp_path: Path):
    hub.stop()
    with pytest.raises(KnotsError, match=r"data set 'me/signs':.* cannot be reached") as caught:
        load_split(one_task("me/signs"), "test", tmp_path / "cache", READING)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("gated", "'me/signs' is gated: accept its terms at"),
        ("missing", "'me/signs'.* no such repository on the hub"),
        ("server_error", "'me/signs'.* HTTP 500"),
        ("drops", "'me/signs'.* failed: .*try again"),
        ("truncates", "'me/signs'.* failed: .*try again"),
    ],
)
def test_faults_of_the_hub_are_one_message(fault: str, message: str, stocked: Hub, tmp_path: Path):
    stocked.faults["me/signs"] = fault
    task = one_task("me/signs", config="plain")
    with pytest.raises(KnotsError, match=message) as caught:
        load_split(task, "test", tmp_path / "cache", READING)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache" / "data").exists()
    del stocked.faults["me/signs"]
    assert len(load_split(task, "test", tmp_path / "cache", READING)) == 5


def test_a_download_that_drops_at_first_goes_on(stocked: Hub, tmp_path: Path):
    stocked.faults["me/signs"] = ("drops", 1)
    arrays = load_split(one_task("me/signs", config="plain"), "test", tmp_path / "cache", READING)
    np.testing.assert_array_equal(arrays.images, expected(5))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, r"data set 'me/signs' needs a `config` \(known: plain, noisy\)"),
        ({"config": "nosy"}, r"unknown config of data set 'me/signs': 'nosy'; did you mean 'noisy'"),
        ({"config": "noisy"}, r"unknown split of data set 'me/signs': 'train' .*fog, test"),
    ],
)
def test_a_wrong_configuration_of_a_hub_id(
    source: dict[str, str], message: str, stocked: Hub, tmp_path: Path
):
    with pytest.raises(KnotsError, match=message):
        load_split(one_task("me/signs", **source), "train", tmp_path / "cache", READING)


def test_folders_of_pictures_on_the_hub(hub: Hub, tmp_path: Path):
    hub.datasets["me/signs"] = files_of(picture_folder(tmp_path / "signs"))
    task = one_task("me/signs", {"train": 6, "test": 3})
    arrays = load_split(task, "test", tmp_path / "cache", READING)
    assert arrays.labels.tolist() == [0, 2, 1]
    assert len(data_files(hub)) == 9  # the classes are those of all splits


def test_a_file_with_signs_of_a_pattern_in_its_name(hub: Hub, tmp_path: Path):
    write_parquet(tmp_path / "signs" / "test-[1].parquet", 3)
    load_split(one_task(tmp_path / "signs", {"test": 3}), "test", tmp_path / "cache", READING)
    hub.datasets["me/signs"] = files_of(tmp_path / "signs")
    arrays = load_split(one_task("me/signs", {"test": 3}), "test", tmp_path / "cache", READING)
    np.testing.assert_array_equal(arrays.images, expected(3))


def test_a_damaged_memory_of_the_listing_is_asked_anew(stocked: Hub, tmp_path: Path):
    task = one_task("me/signs", config="plain")
    before = source_identity(task, "test", tmp_path / "cache", READING)
    (memo,) = (tmp_path / "cache" / "listings").iterdir()
    for content in ("", "[]", '{"files": []}', '{"files": {"test": 3}}'):
        memo.write_text(content)
        forget()
        assert source_identity(task, "test", tmp_path / "cache", READING) == before


class Stderr(io.StringIO):
    """A terminal, or a log file."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_the_download_and_a_log_shows_no_bars(
    terminal: bool, stocked: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", None)
    monkeypatch.setattr(sys, "stderr", Stderr(terminal))
    load_split(one_task("me/signs", config="plain"), "test", tmp_path / "cache", READING)
    shown = sys.stderr.getvalue()
    assert "Generating" not in shown
    assert ("Fetching 2 files" in shown) if terminal else shown == ""


# Real pictures


def real_task(shared: Path, name: str, sizes: Mapping[str, int], classes: Sequence[str]) -> ImageTask:
    source = {"kind": "images", "path": str(shared / "data" / name), "splits": {s: s for s in sizes}}
    return ImageTask(name, tuple(classes), ("a {}",), sizes, source)


def names_of(shared: Path, name: str) -> list[str]:
    return json.loads((shared / "reference" / "joint_labels.json").read_text())["class_names"][name]


def test_real_digits(shared: Path, tmp_path: Path):
    task = real_task(shared, "mnist", {"train": 4000, "test": 1000}, names_of(shared, "mnist"))
    transform = make_transform(
        "clip", 28, {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    )
    arrays = load_split(task, "test", tmp_path, Reading(transform, workers=2))
    rows = pd.read_parquet(shared / "data" / "mnist" / "test-00000-of-00001.parquet")
    assert arrays.labels.tolist() == rows["label"].tolist()
    for number in (0, 17, 999):
        grey = np.asarray(Image.open(io.BytesIO(rows["image"][number]["bytes"])))
        np.testing.assert_array_equal(arrays.images[number], np.repeat(grey[..., None], 3, axis=-1))


def test_real_signs_and_textures(shared: Path, tmp_path: Path):
    signs = real_task(shared, "gtsrb", {"test": 5000}, names_of(shared, "gtsrb"))
    textures = real_task(shared, "dtd", {"validation": 400}, names_of(shared, "dtd"))
    for task, split in ((signs, "test"), (textures, "validation")):
        (file,) = (shared / "data" / task.name).glob(f"{split}-*")
        rows = pd.read_parquet(file)
        arrays = load_split(task, split, tmp_path, READING, Sample(40, 0))
        pixels = [TRANSFORM(Image.open(io.BytesIO(row["bytes"]))).tobytes() for row in rows["image"]]
        for image, label in zip(arrays.images, arrays.labels, strict=True):
            assert rows["label"][pixels.index(image.tobytes())] == label
