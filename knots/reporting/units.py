"""Seconds, bytes and counts as people read them, with three digits at most."""

from __future__ import annotations

SIZES = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
AMOUNTS = ((10**9, "G"), (10**6, "M"))


def span(seconds: float) -> str:
    """A time, as "0.052 s" or "130 s"."""
    return f"{seconds:.0f} s" if seconds >= 100 else f"{seconds:.2g} s"


def size_of(count: int) -> str:
    """Bytes, as "1.5 MB": powers of 1000."""
    for factor, unit in SIZES:
        if count >= factor:
            return f"{_short(count / factor)} {unit}"
    return f"{count} B"


def amount(count: int) -> str:
    """A number of things, in full below a million, as "98,304", else as "1.18 M"."""
    for factor, unit in AMOUNTS:
        if count >= factor:
            return f"{_short(count / factor)} {unit}"
    return f"{count:,}"


def _short(value: float) -> str:
    """Three digits, or those before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
