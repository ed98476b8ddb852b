"""The data cache: built once, checked when read, safe under concurrency and damage."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knots.errors import KnotsError
from knots.suites import data
from knots.suites.data import ImageArrays, Reading, Sample, cached_split, load_split, prepare
from knots.suites.sources import drawn
from knots.suites.tasks import ImageTask
from knots.suites.transforms import make_transform
from tests.miniatures import draw_noise, tiny_suite
from tests.suites.caching import build_twice_at_once, full_disk

TASK = tiny_suite().tasks[0]


class Counting:
    """A source that counts how often it is asked."""

    def __init__(self, draw: Callable[[ImageTask, str], ImageArrays] = draw_noise) -> None:
        self.draw, self.calls = draw, 0

    def __call__(self, task: ImageTask, split: str) -> ImageArrays:
        self.calls += 1
        return self.draw(task, split)


def use(
    monkeypatch: pytest.MonkeyPatch, source: Callable[[ImageTask, str], ImageArrays], version: int = 1
) -> None:
    monkeypatch.setattr(data, "SOURCES", {"noise": drawn(source, version, ("seed",), 32)})


def test_is_built_once_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = Counting()
    use(monkeypatch, source)
    first, second = (load_split(TASK, "test", tmp_path) for _ in range(2))
    fresh = draw_noise(TASK, "test")
    assert source.calls == 1
    assert len(second) == 21
    assert isinstance(second.images, np.memmap)
    np.testing.assert_array_equal(first.images, fresh.images)
    np.testing.assert_array_equal(second.images, fresh.images)
    np.testing.assert_array_equal(second.labels, fresh.labels)


def test_what_is_cached_is_told_and_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = Counting()
    use(monkeypatch, source)
    assert cached_split(TASK, "test", tmp_path) is None
    assert source.calls == 0
    load_split(TASK, "test", tmp_path)
    folder = cached_split(TASK, "test", tmp_path)
    assert folder is not None
    assert folder.parent == tmp_path / "data"
    assert cached_split(TASK, "test", tmp_path, sample=Sample(3, 0)) is None
    (folder / "labels.npy").write_bytes(b"")
    assert cached_split(TASK, "test", tmp_path) is None
    assert source.calls == 1
    with pytest.raises(KnotsError, match="split of task"):
        cached_split(TASK, "train", tmp_path)


def test_everything_that_determines_the_items_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = Counting()
    use(monkeypatch, source)
    load_split(TASK, "test", tmp_path)
    load_split(replace(TASK, source={"kind": "noise", "seed": 1}), "test", tmp_path)
    load_split(replace(TASK, sizes={"test": 5}), "test", tmp_path)
    load_split(replace(TASK, sizes={"test": 21, "validation": 21}), "validation", tmp_path)
    assert source.calls == 4
    use(monkeypatch, source, version=2)
    load_split(TASK, "test", tmp_path)
    assert source.calls == 5


def square(side: int) -> Reading:
    crop = {"height": side, "width": side}
    return Reading(make_transform("clip", side, {"size": {"shortest_edge": side}, "crop_size": crop}))


def test_drawn_pictures_are_transformed_where_the_model_takes_another_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = Counting()
    use(monkeypatch, source)
    plain = load_split(TASK, "test", tmp_path)
    for reading in (Reading(), Reading(skip_broken=True, workers=3), square(32)):
        same = load_split(TASK, "test", tmp_path, reading)
        np.testing.assert_array_equal(same.images, plain.images)
    assert source.calls == 1
    smaller = load_split(TASK, "test", tmp_path, square(16))
    assert smaller.images.shape == (21, 16, 16, 3)
    shrunk = square(16).transform
    assert shrunk is not None
    np.testing.assert_array_equal(smaller.images[3], shrunk(Image.fromarray(plain.images[3])))


def test_a_sample_is_a_subset_and_always_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch, draw_noise)
    whole = load_split(TASK, "test", tmp_path)
    first, again, other = (
        load_split(TASK, "test", tmp_path / folder, sample=Sample(5, seed))
        for folder, seed in (("a", 0), ("b", 0), ("a", 1))
    )
    np.testing.assert_array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)
    known = {image.tobytes(): label for image, label in zip(whole.images, whole.labels, strict=True)}
    drawn = {image.tobytes(): label for image, label in zip(first.images, first.labels, strict=True)}
    assert len(drawn) == 5
    assert drawn.items() <= known.items()
    assert len(load_split(TASK, "test", tmp_path, sample=Sample(22, 0))) == 21


def test_prepare_fills_the_caches_and_names_every_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = Counting()
    use(monkeypatch, source)
    tasks = [replace(TASK, name=name) for name in ("a", "b")]
    wrong = [replace(TASK, name=name, source={"kind": "nosie"}) for name in ("c", "d")]
    with pytest.raises(KnotsError, match=r"'c'.*'d'.*\(the data of the other 2 tasks is ready and kept\)"):
        prepare([(task, "test") for task in (wrong[0], *tasks, wrong[1])], tmp_path, Reading())
    with pytest.raises(KnotsError, match=r"'c'[^(]*\(known: [^)]*\)$"):
        prepare([(wrong[0], "test")], tmp_path, Reading())
    assert source.calls == 2
    prepare([(task, "test") for task in tasks], tmp_path, Reading())
    assert source.calls == 2


def test_a_split_without_a_size_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch, draw_noise)
    with pytest.raises(KnotsError, match=r"unknown split of task 'numbers': 'validation' \(known: test\)"):
        load_split(TASK, "validation", tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "absent", "manifest", "empty manifest", "other"])
def test_damaged_cache_is_built_again(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = Counting()
    use(monkeypatch, source)
    load_split(TASK, "test", tmp_path)
    (folder,) = (tmp_path / "data").iterdir()
    images, manifest = folder / "images.npy", folder / "manifest.json"
    content = images.read_bytes()
    if damage == "truncated":
        images.write_bytes(content[:-100])
    elif damage == "flipped":
        images.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "absent":
        (folder / "labels.npy").unlink()
    elif damage == "manifest":
        manifest.unlink()
    elif damage == "empty manifest":
        manifest.write_text("")
    else:
        np.save(images, np.zeros(3))
    again = load_split(TASK, "test", tmp_path)
    assert source.calls == 2
    np.testing.assert_array_equal(again.images, draw_noise(TASK, "test").images)
    load_split(TASK, "test", tmp_path)
    assert source.calls == 2


def test_a_failure_leaves_nothing_that_looks_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch, draw_noise)
    with full_disk(monkeypatch):
        load_split(TASK, "test", tmp_path)
    (folder,) = (tmp_path / "data").iterdir()
    assert list(folder.iterdir()) == []
    assert len(load_split(TASK, "test", tmp_path)) == 21


def test_no_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch, draw_noise)
    for _ in range(2):
        arrays = load_split(replace(TASK, sizes={"test": 0}), "test", tmp_path)
        assert arrays.images.shape == (0, 32, 32, 3)


LOAD = """
import sys
import zlib
import numpy as np
from knots.suites import data
from knots.suites.sources import drawn
from knots.suites.tasks import ImageTask

def draw(task, split):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, size=(3000, 32, 32, 3), dtype=np.uint8)
    return data.ImageArrays(images, generator.integers(0, 2, size=3000))

data.SOURCES = {"noise": drawn(draw, version=1, options=(), size=32)}
task = ImageTask("noise", ("a", "b"), {"test": 3000}, {"kind": "noise"}, templates=("{}",))
print(zlib.crc32(np.ascontiguousarray(data.load_split(task, "test", sys.argv[1]).images)))
"""


def test_two_processes_at_once(tmp_path: Path):
    build_twice_at_once(LOAD, tmp_path)
    assert len(list((tmp_path / "data").iterdir())) == 1


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((20, 4, 4, 3), np.uint8), np.zeros(20, np.int64), "20 images and 20 labels.*promise 21"),
        (np.zeros((21, 4, 4, 3), np.float32), np.zeros(21, np.int64), "not uint8"),
        (np.zeros((21, 4, 4, 3), np.uint8), np.full(21, 3), "labels from 3 to 3.*has 3 classes"),
    ],
)
def test_wrong_content_is_refused(
    images: np.ndarray, labels: np.ndarray, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    use(monkeypatch, lambda *_: ImageArrays(images, labels))
    with pytest.raises(KnotsError, match=message):
        load_split(TASK, "test", tmp_path)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            {"kind": "minature"},
            "unknown kind of source of task 'numbers': 'minature'; did you mean 'miniature'",
        ),
        ({"kind": "miniature", "sead": 1}, "unknown key of the source of task 'numbers': 'sead'"),
    ],
)
def test_unknown_sources_are_named(source: dict[str, object], message: str, tmp_path: Path):
    with pytest.raises(KnotsError, match=message):
        load_split(replace(TASK, source=source), "test", tmp_path)


def test_miniature_is_a_source(tmp_path: Path):
    source = {"kind": "miniature", "seed": 3}
    task = ImageTask("textures", tuple("abcdefghijklmnop"), {"validation": 6}, source, templates=("a {}",))
    arrays = load_split(task, "validation", tmp_path)
    assert arrays.images.shape == (6, 32, 32, 3)
