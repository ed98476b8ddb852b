"""Pictures that cannot be decoded, and samples of a split."""

import io
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from knots.errors import KnotsError
from knots.suites import images, sources
from knots.suites.data import Sample, load_split, prepare
from tests.suites.pictures import (
    READING,
    encoded,
    expected,
    one_task,
    parquet_folder,
    picture,
    picture_folder,
    write_parquet,
)


def broken_folder(folder: Path) -> Path:
    """Of five test pictures the second is truncated, the third no picture and the fifth absent."""
    good = [encoded(picture(i), form) for i, form in enumerate(("PNG", "JPEG", "PNG"))]
    parquet_folder(folder, contents=[good[0], good[1][:-40], b"no picture"])
    write_parquet(folder / "data" / "test-00001-of-00002.parquet", 2, start=3, contents=[good[2], None])
    return folder


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
