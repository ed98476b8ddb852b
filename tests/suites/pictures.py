"""Pictures that tests share: in parquet files, in folders, and as a repository of the hub."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from knots.suites.data import Reading, source_identity
from knots.suites.hf_datasets import no_bars
from knots.suites.tasks import ImageTask
from knots.suites.transforms import Transform, make_transform
from tests.hub import files_of

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
    with no_bars():
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
    return ImageTask("signs", CLASSES, sizes or SIZES, options, templates=("a {}",))


def identity(path: Path | str, cache: Path, split: str = "test", **source: Any) -> Mapping[str, Any]:
    return source_identity(one_task(path, **source), split, cache, READING)


def repository(root: Path) -> dict[str, bytes | Path]:
    """A data set with two configurations and several files a split."""
    for count, name in ((7, "train-00000-of-00001"), (3, "test-00000-of-00002"), (2, "test-00001-of-00002")):
        write_parquet(root / "plain" / f"{name}.parquet", count, start=3 * ("00001-of-00002" in name))
    for name in ("test", "fog"):
        write_parquet(root / "noisy" / f"{name}-00000-of-00001.parquet", 5, seed=5)
    (root / "README.md").write_bytes(README)
    return files_of(root)
