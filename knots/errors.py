"""The one kind of error a user can cause."""

from collections.abc import Iterable
from difflib import get_close_matches


class KnotsError(ValueError):
    """A user's mistake: the message names the thing, the value, and what was allowed.

    Entry points print the message without a traceback and exit with code 2. Anything else that is
    raised is a bug of ours and keeps its traceback.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def unknown(kind: str, name: str, known: Iterable[str]) -> KnotsError:
    """Build the error for a name that is not in a table, with the nearest names first.

    Args:
        kind: what the name stands for, as the message says it ("method", "task").
        name: the unknown name.
        known: every allowed name.
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return KnotsError(f"unknown {kind} {name!r}{hint} (known: {', '.join(names)})")
