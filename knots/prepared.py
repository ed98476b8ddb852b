"""Adapters that are merged many times, and what one of their merges leaves for the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from knots.adapters import Adapter


class Prepared:
    """Adapters that are merged again and again: what one merge computed serves the next.

    Kept are the alignment of the last space and the last merge as it was before its scale, so that merges
    which differ only in `scale` share everything but one multiplication, and others at least the alignment.
    The merges are the same, bit for bit, as those of the adapters themselves.

    Args:
        adapters: T adapters of one base model.
        keeps: False keeps nothing, as for a single merge.
    """

    def __init__(self, adapters: Sequence[Adapter], *, keeps: bool = True) -> None:
        self.adapters, self.keeps = tuple(adapters), keeps
        self._held: dict[str, tuple[Mapping[str, Any], Any]] = {}

    def recall(self, what: str, key: Mapping[str, Any]) -> Any:
        """What was kept under a name if it was made from the same values, else None."""
        made_from, value = self._held.get(what, ({}, None))
        return value if _same(made_from, key) else None

    def keep(self, what: str, key: Mapping[str, Any], value: Any) -> Any:
        """Keep a value in the place of an older one of its name; returns it."""
        if self.keeps:
            self._held[what] = (key, value)
        return value


def _same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two sets of options are the same; of tensors and other large values, the very same objects."""
    return first.keys() == second.keys() and all(
        first[key] is second[key] or (_is_plain(first[key]) and first[key] == second[key]) for key in first
    )


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, str | int | float | None)
