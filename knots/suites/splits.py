"""Which items of a data set's splits are a task's train, validation and test.

Where a data set has no validation split, part of another one is held out for it: by a seed, as `datasets`
would, or by the index file of the official implementation. What is held out is in no other split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from knots.errors import KnotsError, unknown
from knots.suites.tasks import Task
from knots.user_files import load_tensors, local_file

Indices = npt.NDArray[np.int64]

HELD_OUT_KEYS = ("part_of", "share", "seed", "draw", "indices", "order")
DRAWS = ("raw", "datasets", "last")


@dataclass(frozen=True)
class HeldOut:
    """How validation is taken out of another split.

    Attributes:
        part_of: that split, "train" or "test".
        share: the share of its items, rounded down by `raw`, up by the others.
        seed: of the permutation whose first items are taken.
        draw: "raw" permutes as no version of NumPy changes; "datasets" draws what `train_test_split` of that
            library calls its test part; "last" takes the last items, as that does without shuffling.
        indices: a file with the permutation in place of a seed: path or URL, with `#name` where it holds
            several.
        order: labels of the first items in the order that such a file counts, or "sorted".
    """

    part_of: str
    share: float
    seed: int = 0
    draw: str = "raw"
    indices: str | None = None
    order: Sequence[int] | str | None = None


def held_out(task: Task) -> HeldOut | None:
    """What the task's source says about validation; None where the data set has a split of its own.

    Raises:
        KnotsError: a key is unknown or a value out of range.
    """
    config = task.source.get("validation")
    if config is None:
        return None
    where = f"task {task.name!r}: source.validation"
    if not isinstance(config, Mapping):
        raise KnotsError(f"{where} must be a mapping with {', '.join(HELD_OUT_KEYS)}, got {config!r}")
    for key in config:
        if key not in HELD_OUT_KEYS:
            raise unknown(f"key of {where}", str(key), HELD_OUT_KEYS)
    for key in ("part_of", "share"):
        if key not in config:
            raise KnotsError(f"{where} lacks {key!r}, got {dict(config)!r}")
    part = HeldOut(**config)
    if part.part_of not in ("train", "test"):
        raise unknown(f"split in {where}.part_of:", str(part.part_of), ("train", "test"))
    if not (isinstance(part.share, float) and 0 < part.share < 1):
        raise KnotsError(f"{where}.share={part.share!r}; allowed: a fraction, 0 < share < 1")
    if type(part.seed) is not int or part.seed < 0:
        raise KnotsError(f"{where}.seed={part.seed!r}; a whole number of 0 or more is needed")
    if part.draw not in DRAWS:
        raise unknown(f"{where}.draw", str(part.draw), DRAWS)
    if part.indices is not None and not isinstance(part.indices, str):
        raise KnotsError(f"{where}.indices={part.indices!r}; a path, a URL or null is needed")
    if not (part.order is None or part.order == "sorted" or _are_labels(part.order)):
        raise KnotsError(
            f"{where}.order={part.order!r}; the labels of the first items as [7,2,1], or `sorted`, or null "
            "is needed"
        )
    return part


def _are_labels(order: object) -> bool:
    """Whether this is a list of at least one label."""
    if isinstance(order, str) or not isinstance(order, Sequence):
        return False
    return len(order) > 0 and all(type(label) is int for label in order)


def split_in_data(task: Task, split: str) -> str:
    """What the data set calls the split that the items of `split` lie in.

    Raises:
        KnotsError: the source names no such split, or gives two of them the same name.
    """
    part = held_out(task)
    names = task.source.get("splits", {})
    ours = part.part_of if part is not None and split == "validation" else split
    if not isinstance(names, Mapping):
        raise KnotsError(f"task {task.name!r}: source.splits must map splits to names, got {names!r}")
    names = {name: called for name, called in names.items() if called is not None}
    if ours not in names:
        raise unknown(f"split of the source of task {task.name!r}:", ours, names)
    shared = [other for other in names if other != ours and names[other] == names[ours]]
    if shared:
        raise KnotsError(
            f"task {task.name!r}: source.splits gives {ours!r} and {shared[0]!r} the same items, "
            f"{names[ours]!r}"
        )
    return str(names[ours])


def choose(task: Task, split: str, labels: Indices, cache_dir: Path) -> Indices:
    """Which items of the data set's split belong to the task's, in ascending order.

    Args:
        task: the task.
        split: train, validation or test.
        labels: int64 [N], of the data set's split that `split_in_data` names.
        cache_dir: where a downloaded index file is kept.

    Raises:
        KnotsError: the index file cannot be read, is no permutation of N items, or counts another order.
    """
    part, n = held_out(task), len(labels)
    if part is None or not _cut(part, split):
        return np.arange(n, dtype=np.int64)
    if part.indices is None and part.draw != "raw":
        held, rest = _drawn_by_datasets(part, task.name, n)
        return np.sort(held if split == "validation" else rest)
    if part.indices is None:
        # Unlike `Generator.permutation`, the raw stream is promised to be the same in every version of NumPy.
        order = np.argsort(np.random.PCG64(part.seed).random_raw(n), kind="stable")
    else:
        _check_order(task.name, part.order, labels)
        order = read_indices(part.indices, task.name, n, cache_dir)
    taken = int(n * part.share)
    return np.sort(order[:taken] if split == "validation" else order[taken:])


def _drawn_by_datasets(part: HeldOut, task: str, n: int) -> tuple[Indices, Indices]:
    """What `datasets` takes out of N items, and what it leaves; the drawing is that library's own."""
    import datasets

    try:
        parts = datasets.Dataset.from_dict({"item": np.arange(n)}).train_test_split(
            test_size=part.share, shuffle=part.draw == "datasets", seed=part.seed
        )
    except ValueError as error:
        raise KnotsError(
            f"task {task!r}: source.validation.share={part.share} of {n} items leaves no {part.part_of!r}"
        ) from error
    held, rest = (np.array(parts[name]["item"], dtype=np.int64) for name in ("test", "train"))
    return held, rest


def _cut(part: HeldOut, split: str) -> bool:
    """Whether the split is one of the two that share a split of the data set."""
    return split in ("validation", part.part_of)


def _check_order(task: str, order: Sequence[int] | str | None, labels: Indices) -> None:
    """Refuse an index file whose order the data is not known to have."""
    if order is None:
        raise KnotsError(
            f"task {task!r}: an index file counts items in the order of its own data set, which is not known "
            "here; give source.validation.order, the labels of its first items as [7,2,1], or `sorted`"
        )
    if order == "sorted":
        holds, expected = bool((np.diff(labels) >= 0).all()), "sorted by class"
    else:
        first = list(order)
        holds, expected = labels[: len(first)].tolist() == first, f"in an order that begins with {first}"
    if not holds:
        shown = labels[:20].tolist()
        raise KnotsError(
            f"task {task!r}: the index file does not fit, for the data has another order (it counts items "
            f"{expected}; the data begins with {shown}); leave source.validation.indices out to draw by seed"
        )


def read_indices(place: str, task: str, n: int, cache_dir: Path) -> Indices:
    """Read a permutation of `n` items from a path or URL, `.safetensors` or `.pt` (read weights-only).

    Raises:
        KnotsError: it cannot be had or read, holds several tensors and none is named, or is no permutation.
    """
    path, where = _local(place, task, cache_dir)
    values = load_tensors(path, where)
    if isinstance(values, Mapping):
        key = place.partition("#")[2] or (task if task in values or len(values) != 1 else next(iter(values)))
        if key not in values:
            raise unknown(f"tensor of {where} (name one with `#name`):", key, map(str, values))
        values = values[key]
    try:
        order = np.asarray(values).reshape(-1)
    except (ValueError, TypeError) as error:
        raise KnotsError(f"{where} holds no list of whole numbers: {error}") from error
    if order.size and not np.issubdtype(order.dtype, np.integer):
        raise KnotsError(f"{where} holds {order.dtype}, not whole numbers")
    if len(order) != n or not np.array_equal(np.sort(order), np.arange(n)):
        raise KnotsError(f"{where} holds {len(order)} numbers, not a permutation of the split's {n} items")
    return order.astype(np.int64)


def _local(place: str, task: str, cache_dir: Path) -> tuple[Path, str]:
    """The file on this machine, and how messages call it."""
    address = place.partition("#")[0]
    where = f"task {task!r}: index file {address!r}"
    path = local_file(address, where, cache_dir / "indices")
    return path, f"{where} (kept as {path})" if "://" in address else where


def indices_content(task: Task, cache_dir: Path) -> str | None:
    """SHA-256 of the index file with the tensor that is named in it, or None where there is none."""
    part = held_out(task)
    if part is None or part.indices is None:
        return None
    path, _ = _local(part.indices, task.name, cache_dir)
    name = part.indices.partition("#")[2]
    return hashlib.sha256(path.read_bytes()).hexdigest() + (f"#{name}" if name else "")


def held_out_identity(task: Task, split: str, cache_dir: Path) -> dict[str, Any] | None:
    """What decides which items `choose` gives, as plain values; None where it gives all."""
    part = held_out(task)
    if part is None or not _cut(part, split):
        return None
    indices = indices_content(task, cache_dir)
    if indices is not None:
        drawn_by: dict[str, Any] = {"indices": indices}
    elif part.draw == "last":
        drawn_by = {"draw": "last"}
    else:
        drawn_by = {"seed": part.seed, **({"draw": part.draw} if part.draw != "raw" else {})}
    return {"part_of": part.part_of, "share": part.share, **drawn_by}
