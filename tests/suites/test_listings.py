"""Which files of a folder hold a split, and what tells data sets from each other."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from knots.suites import listings
from knots.suites.data import Reading, load_split, source_identity
from knots.suites.listings import Listing, content_of, list_split
from tests.suites.pictures import (
    OTHER,
    READING,
    TRANSFORM,
    expected,
    identity,
    one_task,
    parquet_folder,
    picture_folder,
    write_parquet,
)


def test_a_class_called_as_a_split_stays_in_its_split(tmp_path: Path):
    folder = picture_folder(tmp_path / "signs", ("val_road", "train_station", "test"))
    for split, each in (("train", 2), ("test", 1)):
        files = list_split(one_task(folder).source, split, tmp_path / "cache").files[split]
        assert len(set(files)) == len(files) == 3 * each
        assert all(file.startswith(f"{split}/") for file in files)


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


def test_how_files_are_read_is_part_of_what_they_are(tmp_path: Path):
    keys = []
    for name, readme in (("a.csv", None), ("a.tsv", None), ("a.csv", "sep: ';'")):
        folder = tmp_path / str(len(keys)) / "signs"
        folder.mkdir(parents=True)
        (folder / name.replace("a.", "test.")).write_text("x\n1\n")
        if readme:
            text = f"configs:\n- config_name: default\n  data_files: test.csv\n  {readme}\n"
            (folder / "README.md").write_text(f"---\n{text}---\n")
        split = "train" if readme else "test"
        listing = list_split({"path": str(folder)}, split, tmp_path / "cache")
        assert listing.builder == "csv"
        keys.append((dict(listing.options), content_of(listing, tmp_path / "cache")))
    assert [options for options, _ in keys] == [{}, {"sep": "\t"}, {"sep": ";"}]
    assert len({content for _, content in keys}) == 3


def test_a_folder_is_listed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def ask(*question: object) -> Listing:
        asked.append(question)
        return real(*question)

    real = listings._ask
    monkeypatch.setattr(listings, "_ask", ask)
    folder = parquet_folder(tmp_path / "signs")
    for _ in range(3):
        first = list_split({"path": str(folder)}, "test", tmp_path / "cache")
    assert len(asked) == 1
    list_split({"path": str(folder)}, "train", tmp_path / "cache")
    assert len(asked) == 2
    (folder / first.files["test"][1]).unlink()
    again = list_split({"path": str(folder)}, "test", tmp_path / "cache")
    assert len(asked) == 3
    assert again.files["test"] == first.files["test"][:1]
