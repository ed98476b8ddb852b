"""Real image tasks from folders: what is read, and what is refused."""

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from knots.errors import KnotsError
from knots.suites.cache import PIECE
from knots.suites.data import Reading, Sample, load_split
from knots.suites.tasks import ImageTask
from knots.suites.transforms import make_transform
from tests.suites.pictures import (
    CLASSES,
    READING,
    SIDE,
    TRANSFORM,
    encoded,
    expected,
    one_task,
    parquet_folder,
    picture,
    picture_folder,
    repository,
    write_parquet,
)


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
        (
            {"labels": ["a", "b", "c"], "names": None},
            {},
            r"labels of type string in column 'label'; integers",
        ),
        ({"labels": [0.0, 1.0, 2.0], "names": None}, {}, r"labels of type double in column 'label'"),
        ({"labels": [0, None, 2]}, {}, r"has 1 items without a label in column 'label'"),
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


def real_task(shared: Path, name: str, sizes: Mapping[str, int], classes: Sequence[str]) -> ImageTask:
    source = {"kind": "images", "path": str(shared / "data" / name), "splits": {s: s for s in sizes}}
    return ImageTask(name, tuple(classes), sizes, source, templates=("a {}",))


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
