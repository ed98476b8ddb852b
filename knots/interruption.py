"""Stopping at a place from which the work can be gone on with.

Whoever is told to stop (by a scheduler's signal, before the time limit) asks for it here. Evaluations and
trainings look whether they are asked, where what they have done is on disk, and end there by `Interrupted`.
"""

from __future__ import annotations

_reasons: list[str] = []


class Interrupted(BaseException):
    """Work ended early because it was asked to; the same call goes on from there.

    Not an `Exception`: nobody who takes errors as they come is meant to take it.
    """


def ask(reason: str) -> None:
    """Ask the work of this process to stop; safe in a signal's handler.

    Args:
        reason: as a signal's name.
    """
    _reasons.append(reason)


def asked() -> bool:
    """Whether the work is to stop."""
    return bool(_reasons)


def reason() -> str:
    """Why the work is to stop; of several processes, perhaps another one was told."""
    return _reasons[-1] if _reasons else "another process"


def give_way() -> None:
    """Stop here, if that was asked for.

    Raises:
        Interrupted: it was.
    """
    if _reasons:
        raise Interrupted(reason())


def forget() -> None:
    """Nothing was asked."""
    _reasons.clear()
