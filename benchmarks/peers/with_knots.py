"""This library's merges: the counterparts of what the peers do, option by option."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _peer import Case, Update, Work, main

import knots
from knots.adapters.shortening import shorten_all
from knots.updates import LowRank

OURS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "task_arithmetic": ("task_arithmetic", (), {}),
    "ties": ("ties", ("density",), {}),
    "ties_module": ("ties", ("density",), {"trim": "module"}),
    "dare_ties": ("dare_ties", ("drop", "seed"), {}),
    "dare_ties, another seed": ("dare_ties", ("drop",), {"seed": 421}),
    "dare_ties_trimmed": ("dare_ties", ("density", "drop", "seed"), {}),
    "knots_ties": ("knots_ties", ("density",), {}),
}
"""Name -> method, the options that `Work` gives it, further options."""


def load(work: Work) -> list[knots.Adapter]:
    return [knots.load_adapter(folder) for folder in work.adapters]


def merged(work: Work, adapters: list[knots.Adapter], name: str) -> knots.Adapter:
    method, given, fixed = OURS[name]
    options = {option: getattr(work, option) for option in given}
    return knots.merge(adapters, **knots.METHODS[method], scale=1.0, **options, **fixed)


def held(adapter: knots.Adapter) -> Iterator[tuple[str, Update]]:
    """Every module's update multiplied out or as factors, as it comes."""
    for module, update in adapter.updates.items():
        factors = isinstance(update, LowRank)
        yield adapter.prefix + module, (update.b, update.a) if factors else update.weight


def in_memory(name: str) -> Case:
    """Large dense merges are computed when they are read; here all are read."""

    def merge(work: Work, adapters: list[knots.Adapter]) -> list[tuple[str, Update]]:
        return list(held(merged(work, adapters, name)))

    return Case(load, merge, lambda _, updates: updates)


def shortened(name: str) -> Case:
    """To an adapter of the rank of the inputs, by SVD."""

    def merge(work: Work, adapters: list[knots.Adapter]) -> list[tuple[str, Update]]:
        whole = merged(work, adapters, name)
        updates, _ = shorten_all(whole.updates, work.rank)
        return [(whole.prefix + module, (update.b, update.a)) for module, update in updates.items()]

    return Case(load, merge, lambda _, updates: updates)


def from_folders(name: str) -> Case:
    """From adapter folders to an adapter folder."""

    def merge(work: Work, _: None) -> Path:
        out = Path(work.scratch) / "merged"
        knots.save_adapter(merged(work, load(work), name), out)
        return out

    def read(_: None, folder: Path) -> Iterator[tuple[str, Update]]:
        return held(knots.load_adapter(folder))

    def clear(work: Work, _: None) -> None:
        shutil.rmtree(Path(work.scratch) / "merged")

    return Case(lambda _: None, merge, read, clear, start="disk", end="disk")


CASES = {
    **{name: in_memory(name) for name in OURS},
    **{f"{name}, shortened": shortened(name) for name in OURS},
    **{f"{name}, folders": from_folders(name) for name in OURS},
}

if __name__ == "__main__":
    main(CASES, ["knots-merging"])
