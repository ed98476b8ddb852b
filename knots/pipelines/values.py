"""Values of a configuration, checked; a KnotsError names the key, the value, and what is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from knots.errors import KnotsError, unknown


def text(where: str, value: object) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise KnotsError(f"{where}={value!r}; a text is needed")
    return value


def choice(where: str, value: object, known: Sequence[str] | Mapping[str, Any]) -> str:
    """One of the names in a table."""
    if value not in known:
        raise unknown(where, str(value), known)
    return str(value)


def names_of(where: str, value: object) -> list[str]:
    """One name, or a list of them."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Sequence) or not all(isinstance(name, str) for name in value):
        raise KnotsError(f"{where}={value!r}; names are needed, as [mnist,svhn]")
    return list(value)


def number(where: str, value: object) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise KnotsError(f"{where}={value!r}; a number is needed")
    return float(value)


def numbers(where: str, value: object) -> list[float]:
    """A list of finite numbers."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise KnotsError(f"{where}={value!r}; a list of numbers is needed, as [1,0.5]")
    return [number(where, item) for item in value]


def whole(where: str, value: object, least: int = 1) -> int:
    """A whole number of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise KnotsError(f"{where}={value!r}; a whole number of {least} or more is needed")
    return value


def flag(where: str, value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise KnotsError(f"{where}={value!r}; true or false is needed")
    return value


def check_keys(where: str, values: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse a mapping with an unknown key, or without one of the known ones."""
    for key in values:
        if key not in known:
            raise unknown(f"key of {where!r}", str(key), known)
    absent = [key for key in known if key not in values]
    if absent:
        raise KnotsError(f"{where} lacks {', '.join(map(repr, absent))}")
