"""What is held out for validation is in no other split, by a seed or by an index file."""

import math
import pickle
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from knots.errors import KnotsError
from knots.suites.splits import (
    choose,
    held_out,
    held_out_identity,
    indices_content,
    read_indices,
    split_in_data,
)
from knots.suites.tasks import ImageTask

SPLITS = {"train": "train", "test": "test"}
NOWHERE = Path("nowhere")
SIZES = {"cars": 8041, "gtsrb": 12630, "mnist": 10000, "sun397": 19850, "svhn": 26032}
TESTED = {"cars": 6433, "gtsrb": 10104, "mnist": 8000, "sun397": 15880, "svhn": 20826}


def task(validation: object = None, splits: object = SPLITS, name: str = "signs") -> ImageTask:
    source = {"kind": "images", "path": "a/b", "splits": splits, "validation": validation}
    return ImageTask(name, ("a", "b", "c"), {}, source, templates=("{}",))


def part(**options: object) -> dict[str, object]:
    return {"part_of": "test", "share": 0.2, "seed": 420, **options}


def labels(n: int) -> np.ndarray:
    return np.arange(n) % 3


def permutation(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(n)


@given(
    n=st.integers(0, 3000),
    share=st.floats(0, 1, exclude_min=True, exclude_max=True),
    seed=st.integers(0, 2**40),
    whole=st.sampled_from(["train", "test"]),
)
def test_validation_and_the_rest_are_the_whole(n: int, share: float, seed: int, whole: str):
    one = task(part(part_of=whole, share=share, seed=seed))
    other = "test" if whole == "train" else "train"
    validation, rest = (choose(one, split, labels(n), NOWHERE) for split in ("validation", whole))
    assert len(validation) == int(n * share)
    assert validation.dtype == rest.dtype == np.int64
    assert np.array_equal(np.sort(np.concatenate([validation, rest])), np.arange(n))
    assert all((np.diff(chosen) > 0).all() for chosen in (validation, rest))
    assert np.array_equal(validation, choose(one, "validation", labels(n), NOWHERE))
    assert np.array_equal(choose(one, other, labels(n), NOWHERE), np.arange(n))
    assert split_in_data(one, "validation") == split_in_data(one, whole) != split_in_data(one, other)


def test_another_seed_holds_out_others_and_none_is_drawn_in_secret():
    first, second = (choose(task(part(seed=seed)), "validation", labels(100), NOWHERE) for seed in (0, 1))
    assert not np.array_equal(first, second)
    # The same on every machine and in every version: what is held out must not move between two runs.
    assert choose(task(part(seed=420)), "validation", labels(20), NOWHERE).tolist() == [6, 9, 14, 18]


def test_a_validation_split_of_its_own():
    own = task(None, {**SPLITS, "validation": "dev"})
    assert held_out(own) is None
    assert split_in_data(own, "validation") == "dev"
    for split in ("train", "validation", "test"):
        assert np.array_equal(choose(own, split, labels(7), NOWHERE), np.arange(7))


@pytest.mark.parametrize(
    ("splits", "split", "message"),
    [
        ({"train": "train"}, "test", r"unknown split of the source of task 'signs': 'test'.*train"),
        ({"train": "train", "test": None}, "test", r"unknown split .* 'test'"),
        ({}, "test", r"unknown split .* 'test'"),
        (["train", "test"], "test", r"source.splits must map splits to names, got \['train', 'test'\]"),
        ({"train": "all", "test": "all"}, "test", r"gives 'test' and 'train' the same items, 'all'"),
        ({"test": "test", "validation": "test"}, "validation", r"'validation' and 'test' the same items"),
    ],
)
def test_splits_that_do_not_fit_are_named(splits: object, split: str, message: str):
    with pytest.raises(KnotsError, match=message):
        split_in_data(task(None, splits), split)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (3, r"source.validation must be a mapping with part_of, .*got 3"),
        (part(sead=1), r"unknown key of .*validation 'sead'; did you mean 'seed'"),
        ({"share": 0.2}, r"validation lacks 'part_of'"),
        ({"part_of": "test"}, r"validation lacks 'share'"),
        (part(part_of="tset"), r"unknown split in .*part_of: 'tset'; did you mean 'test'"),
        (part(part_of="validation"), r"unknown split in .*part_of: 'validation'"),
        (part(share=0.0), r"share=0.0; allowed: a fraction, 0 < share < 1"),
        (part(share=1), r"share=1; allowed"),
        (part(share=20), r"share=20; allowed"),
        (part(share="0.2"), r"share='0.2'; allowed"),
        (part(share=float("nan")), r"share=nan; allowed"),
        (part(seed=None), r"seed=None; a whole number of 0 or more"),
        (part(seed=-1), r"seed=-1; a whole number"),
        (part(seed=1.5), r"seed=1.5; a whole number"),
        (part(seed=True), r"seed=True; a whole number"),
        (part(indices=7), r"indices=7; a path, a URL or null"),
        (part(order="srted"), r"order='srted'; the labels of the first items"),
        (part(order=[]), r"order=\[\]; the labels"),
        (part(order=[1, "2"]), r"order=\[1, '2'\]; the labels"),
        (part(order=3), r"order=3; the labels"),
    ],
)
def test_wrong_options_are_named(validation: object, message: str):
    with pytest.raises(KnotsError, match=message) as caught:
        held_out(task(validation))
    assert "task 'signs'" in str(caught.value)


def save(folder: Path, form: str, order: np.ndarray) -> str:
    """An index file in one of the forms that are read."""
    tensor = torch.from_numpy(order)
    if form == "one tensor":
        save_file({"anything": order}, folder / "one.safetensors")
        return str(folder / "one.safetensors")
    if form in ("named", "by task"):
        other = permutation(len(order), seed=99)
        save_file({"other": other, "signs": order, "third": other}, folder / "several.safetensors")
        return str(folder / "several.safetensors") + ("#signs" if form == "named" else "")
    values: Any = {"pt tensor": tensor, "pt int32": tensor.int(), "pt list": order.tolist()}.get(form)
    torch.save({"signs": tensor} if form == "pt mapping" else values, folder / "order.pt")
    return str(folder / "order.pt")


@pytest.mark.parametrize(
    "form", ["one tensor", "named", "by task", "pt tensor", "pt int32", "pt list", "pt mapping"]
)
def test_index_files(form: str, tmp_path: Path):
    order = permutation(50)
    place = save(tmp_path, form, order)
    assert read_indices(place, "signs", 50, tmp_path).tolist() == order.tolist()
    one = task(part(indices=place, order=[0, 1, 2, 0]))
    validation, rest = (choose(one, split, labels(50), tmp_path) for split in ("validation", "test"))
    assert validation.tolist() == sorted(order[:10].tolist())
    assert rest.tolist() == sorted(order[10:].tolist())
    assert len(choose(one, "train", labels(77), tmp_path)) == 77


class Evil:
    """Unpickling it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.target,)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path):
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    torch.save(Evil(tmp_path / "ran"), tmp_path / "zipped.pt")
    for name in ("plain.pt", "zipped.pt"):
        with pytest.raises(KnotsError, match=rf"task 'signs': index file .*{name}' cannot be read"):
            read_indices(str(tmp_path / name), "signs", 5, tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([0, 1, 2, 3]), "holds 4 numbers, not a permutation of the split's 5 items"),
        (np.array([0, 1, 2, 3, 4, 5]), "holds 6 numbers, not a permutation"),
        (np.array([0, 1, 2, 3, 3]), "holds 5 numbers, not a permutation"),
        (np.array([1, 2, 3, 4, 5]), "holds 5 numbers, not a permutation"),
        (np.array([0, 1, 2, 3, -1]), "holds 5 numbers, not a permutation"),
        (np.array([0.0, 1, 2, 3, 4]), "holds float64, not whole numbers"),
        ([[0, 1], [2]], "holds no list of whole numbers"),
        ("01234", "holds <U5, not whole numbers"),
        ({"other": [0], "another": [1]}, "unknown tensor of .*'signs'.*another, other"),
    ],
)
def test_what_is_no_permutation_is_refused(content: object, message: str, tmp_path: Path):
    value = torch.from_numpy(content) if isinstance(content, np.ndarray) else content
    torch.save(value, tmp_path / "order.pt")
    with pytest.raises(KnotsError, match=message):
        read_indices(str(tmp_path / "order.pt"), "signs", 5, tmp_path)


def test_absent_damaged_and_unnamed_files_are_named(tmp_path: Path):
    with pytest.raises(KnotsError, match=r"task 'signs': index file '.*absent.pt' is not there"):
        read_indices(str(tmp_path / "absent.pt"), "signs", 5, tmp_path)
    (tmp_path / "damaged.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(KnotsError, match=r"damaged.safetensors' cannot be read"):
        read_indices(str(tmp_path / "damaged.safetensors"), "signs", 5, tmp_path)
    save_file({"a": permutation(5), "b": permutation(5)}, tmp_path / "two.safetensors")
    with pytest.raises(KnotsError, match=r"unknown tensor of .*#name.* 'signs' .*a, b"):
        read_indices(str(tmp_path / "two.safetensors"), "signs", 5, tmp_path)


@pytest.mark.parametrize(
    ("order", "data", "message"),
    [
        ([0, 1, 2], [0, 1, 2, 0, 1], None),
        ("sorted", [0, 0, 1, 1, 2], None),
        (None, [0, 1, 2, 0, 1], r"not known here; give source.validation.order"),
        ([0, 1, 1], [0, 1, 2, 0, 1], r"begins with \[0, 1, 1\]; the data begins with \[0, 1, 2, 0, 1\]"),
        ([0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 1], r"the data has another order"),
        ("sorted", [0, 1, 2, 0, 1], r"counts items sorted by class; the data begins with"),
    ],
)
def test_the_order_that_a_file_counts_in(order: object, data: list[int], message: str | None, tmp_path: Path):
    save_file({"x": permutation(5)}, tmp_path / "x.safetensors")
    one = task(part(indices=str(tmp_path / "x.safetensors"), order=order))
    if message is None:
        assert len(choose(one, "validation", np.array(data), tmp_path)) == 1
        return
    with pytest.raises(KnotsError, match=message):
        choose(one, "validation", np.array(data), tmp_path)
    # The order counts only where a file does.
    assert len(choose(one, "train", np.array(data), tmp_path)) == 5
    assert len(choose(task(part(order=order)), "validation", np.array(data), tmp_path)) == 1


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, ThreadingHTTPServer]]:
    """A folder that a web server gives out on loopback."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield folder, server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_url_is_downloaded_once(
    served: tuple[Path, ThreadingHTTPServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder, server = served
    order = permutation(30)
    save_file({"signs": order, "b": order}, folder / "x.safetensors")
    address = f"http://127.0.0.1:{server.server_port}/x.safetensors?download=true"
    one = task(part(indices=address, order=[0, 1, 2]))
    content = indices_content(one, tmp_path)
    (folder / "x.safetensors").unlink()  # from now on the server has it no more
    assert indices_content(one, tmp_path) == content
    assert read_indices(address, "signs", 30, tmp_path).tolist() == order.tolist()
    assert read_indices(f"{address}#b", "signs", 30, tmp_path).tolist() == order.tolist()
    assert len(list((tmp_path / "indices").iterdir())) == 1
    with pytest.raises(KnotsError, match=r"'http://.*y.pt' cannot be downloaded: .*404.*give the path of a"):
        read_indices(address.replace("x.safetensors?download=true", "y.pt"), "signs", 30, tmp_path)
    assert len(list((tmp_path / "indices").iterdir())) == 1


def test_an_unreachable_url_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(KnotsError, match=r"'http://127.0.0.1:9/x.pt' cannot be downloaded: .*refused"):
        read_indices("http://127.0.0.1:9/x.pt", "signs", 5, tmp_path)
    with pytest.raises(KnotsError, match=r"'htp://x.pt' cannot be downloaded: .*unknown url type"):
        read_indices("htp://x.pt", "signs", 5, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_decides_is_in_the_identity_and_nothing_else(tmp_path: Path):
    for name in ("one", "two"):
        save_file({"a": permutation(9), "b": permutation(9, 1)}, tmp_path / f"{name}.safetensors")
    save_file({"a": permutation(9, 2), "b": permutation(9, 1)}, tmp_path / "three.safetensors")
    one, three = str(tmp_path / "one.safetensors"), str(tmp_path / "three.safetensors")

    def identity(split: str = "test", **options: object) -> Mapping[str, Any] | None:
        return held_out_identity(task(part(**options)), split, tmp_path)

    different = [
        identity(),
        identity(share=0.3),
        identity(seed=1),
        identity(part_of="train", split="train"),
        identity(indices=f"{one}#a"),
        identity(indices=f"{one}#b"),
        identity(indices=f"{three}#a"),
    ]
    assert all(different.count(one) == 1 for one in different)
    # The same file elsewhere; a seed that a file replaces; the order, which is only checked.
    same = identity(indices=f"{one}#a")
    assert identity(indices=str(tmp_path / "two.safetensors") + "#a", seed=5, order="sorted") == same
    # A split that nothing is taken from.
    assert identity(split="train") is None
    assert identity(split="train", indices="http://127.0.0.1:9/never-asked-for.pt") is None
    assert held_out_identity(task(None), "test", tmp_path) is None


@pytest.mark.parametrize("name", SIZES)
def test_the_official_indices_give_the_published_counts(name: str, shared: Path, tmp_path: Path):
    file = str(shared / "reference" / "split_indices.safetensors")
    n = SIZES[name]
    assert len(read_indices(f"{file}#{name}", "signs", n, tmp_path)) == n
    one = task(part(indices=f"{file}#{name}", order=[0, 1, 2]))
    assert len(choose(one, "test", labels(n), tmp_path)) == TESTED[name]
    assert len(choose(one, "validation", labels(n), tmp_path)) == n - TESTED[name]
    if name != "cars":  # the other tasks are called as here
        by_task = read_indices(file, name, n, tmp_path)
        assert np.array_equal(by_task, read_indices(f"{file}#{name}", "signs", n, tmp_path))
    with pytest.raises(KnotsError, match="not a permutation"):
        choose(one, "test", labels(n - 1), tmp_path)


@pytest.mark.parametrize(
    ("n", "share", "draw", "held", "first", "total"),
    [
        # The reference's halves of RTE's validation set, its fifths of QNLI's and of MNLI's.
        (277, 0.5, "datasets", 139, [0, 2, 3, 4, 7, 8, 9, 12], 18947),
        (5463, 0.2, "datasets", 1093, [8, 11, 16, 17, 19, 31, 37, 39], 3004619),
        (9815, 0.2, "last", 1963, list(range(7852, 7860)), sum(range(7852, 9815))),
    ],
)
def test_what_datasets_holds_out(
    n: int, share: float, draw: str, held: int, first: list[int], total: int, tmp_path: Path
):
    one = task(part(share=share, seed=42, draw=draw))
    validation, rest = (choose(one, split, labels(n), tmp_path) for split in ("validation", "test"))
    table = datasets.Dataset.from_dict({"item": list(range(n))})
    parts = table.train_test_split(test_size=share, shuffle=draw == "datasets", seed=42)
    assert validation.tolist() == sorted(parts["test"]["item"])
    assert rest.tolist() == sorted(parts["train"]["item"])
    # Written down, for no version of NumPy or `datasets` may change them unseen.
    assert (len(validation), validation[:8].tolist(), validation.sum()) == (held, first, total)
    assert list(tmp_path.iterdir()) == []


@given(
    n=st.integers(0, 200),
    share=st.floats(0.01, 0.99),
    draw=st.sampled_from(["datasets", "last"]),
    whole=st.sampled_from(["train", "test"]),
)
def test_datasets_holds_out_no_item_twice(n: int, share: float, draw: str, whole: str):
    one = task(part(part_of=whole, share=share, draw=draw))
    taken = math.ceil(n * share)
    if n and taken == n:
        with pytest.raises(KnotsError, match=rf"share={share} of {n} items leaves no '{whole}'"):
            choose(one, "validation", labels(n), NOWHERE)
        return
    validation, rest = (choose(one, split, labels(n), NOWHERE) for split in ("validation", whole))
    assert len(validation) == taken
    assert sorted([*validation, *rest]) == list(range(n))


def test_the_way_of_drawing_is_in_the_identity(tmp_path: Path):
    def identity(**options: object) -> Mapping[str, Any] | None:
        return held_out_identity(task(part(**options)), "test", tmp_path)

    ways = [identity(), identity(draw="datasets"), identity(draw="last"), identity(draw="datasets", seed=1)]
    assert all(ways.count(one) == 1 for one in ways)
    assert identity(draw="raw") == identity()  # as it was before there were others
    assert identity(draw="last", seed=1) == ways[2]
    with pytest.raises(KnotsError, match=r"unknown task 'signs': source.validation.draw 'first'.*last"):
        choose(task(part(draw="first")), "test", labels(5), tmp_path)
