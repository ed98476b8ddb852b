"""Fetch everything that later runs read, and check in a process without a network that it is all here.

Whatever cannot be had is named with its reason, and does not keep the rest from being fetched.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context

from rich import box
from rich.table import Table

from knots.errors import KnotsError
from knots.pipelines.needs import Need
from knots.pipelines.parts import Part, parts_of
from knots.reporting.units import size_of

log = logging.getLogger(__name__)

OK, MISSING = "ok", "missing"

NO_BASE = "it cannot be had without the base"

NAMED = 3
"""Parts with the same reason that a message names; the table has all of them."""


@dataclass(frozen=True)
class State:
    """Whether a part is here.

    Attributes:
        what: it is.
        where: it comes from.
        size: of its files, in bytes; 0 where it is not here.
        reason: why it is not here; None where it is.
    """

    what: str
    where: str
    size: int
    reason: str | None


def run_prefetch(needs: Sequence[Need], *, fetches: bool = True) -> list[State]:
    """Fetch what is not here yet, then open all of it in a fresh process that cannot fetch anything.

    Args:
        needs: of the runs.
        fetches: False only looks at what is here.

    Returns:
        Every part, once.

    Raises:
        KnotsError: the process that looks was killed.
        OSError: the disk is full or may not be written to; what is complete is kept.
    """
    failed = fetch(needs) if fetches else {}
    return [
        state if state.reason is None else replace(state, reason=failed.get(key, state.reason))
        for key, state in check_apart(needs).items()
    ]


def fetch(needs: Sequence[Need]) -> dict[str, str]:
    """Fetch every part that is not here yet.

    Returns:
        Key of a part that could not be had -> the reason.
    """
    parts = parts_of(needs)

    def get(number: int, part: Part) -> None:
        log.info("%d of %d: %s (%s)", number, len(parts), part.what, part.where)
        part.fetch()

    return _each(parts, get)


def check(needs: Sequence[Need]) -> dict[str, State]:
    """Open every part as a run does, in this process; gives the states by the parts' keys."""
    parts, sizes = parts_of(needs), dict[str, int]()

    def look(_: int, part: Part) -> None:
        sizes[part.key] = sum(path.stat().st_size for path in part.check())

    failed = _each(parts, look)
    return {
        part.key: State(part.what, part.where, sizes.get(part.key, 0), failed.get(part.key)) for part in parts
    }


def _each(parts: Sequence[Part], act: Callable[[int, Part], None]) -> dict[str, str]:
    """Do something with every part; gives the reasons of those where it failed, by their keys."""
    failed: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        if part.base in failed:
            failed[part.key] = NO_BASE
            continue
        try:
            act(number, part)
        except KnotsError as error:
            failed[part.key] = str(error)
    return failed


def check_apart(needs: Sequence[Need]) -> dict[str, State]:
    """`check` in a process of its own, in which the hub's clients have no network.

    Raises:
        KnotsError: it was killed.
    """
    with _offline(), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        try:
            return apart.submit(_check_quietly, needs).result()
        except BrokenProcessPool as error:
            raise KnotsError(
                "the process that checks what was fetched was killed (for its memory?); what was fetched is "
                "kept, fetch=false checks it again"
            ) from error


def _check_quietly(needs: Sequence[Need]) -> dict[str, State]:
    """What is said beside the states is of no use here: that the hub was not asked, say."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("knots").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return check(needs)


@contextmanager
def _offline() -> Iterator[None]:
    """An environment in which a new process has the caches of this one and no hub."""
    from huggingface_hub import constants

    wanted = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(constants.HF_HUB_CACHE),
        "HF_ENDPOINT": str(constants.ENDPOINT),
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        _restore(before)


def _restore(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def states_view(states: Sequence[State]) -> Table:
    """The parts for a terminal, with the size of what is here."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    here = sum(state.size for state in states)
    table.add_column("what", f"{len(states)} parts")
    table.add_column("where", overflow="fold")
    table.add_column("size", size_of(here), justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for state in states:
        there = state.reason is None
        size, style = size_of(state.size) if there else "", "" if there else "red"
        table.add_row(state.what, state.where, size, OK if there else MISSING, style=style)
    return table


def complaint(states: Sequence[State]) -> str | None:
    """What is not here and why, in one line; None where everything is."""
    reasons: dict[str, list[str]] = {}
    for state in states:
        if state.reason is not None:
            reasons.setdefault(state.reason, []).append(state.what)
    if not reasons:
        return None
    missing = sum(map(len, reasons.values()))
    told = "; ".join(f"{_names(whats)}: {reason}" for reason, whats in reasons.items())
    others = "" if missing == len(states) else ", the others are"
    return f"{missing} of {len(states)} parts are not here{others}: {told}"


def _names(whats: Sequence[str]) -> str:
    shown = ", ".join(whats[:NAMED])
    return f"{shown} and {len(whats) - NAMED} more" if len(whats) > NAMED else shown
