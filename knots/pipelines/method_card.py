"""What a rule does, found by trying: one task alone, other orders, factors, sizes, lists; and what it costs.

Nothing is scored, and the base is loaded for those rules alone that look at data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table

from knots.adapters import Adapter
from knots.analysis import probes
from knots.analysis.costs import REPETITIONS, SHORT, Cost, measure_cost
from knots.analysis.probes import Merge
from knots.errors import KnotsError, first_line
from knots.files import write_whole
from knots.pipelines.bench import CALIBRATED, merger, workshop_for
from knots.pipelines.plans import MergePlan, parse_merge
from knots.pipelines.trainers import quiet_trainer
from knots.pipelines.values import text
from knots.provenance import describe_device
from knots.reporting.units import amount, size_of, span
from knots.updates import LowRank

STILL = 1e-3
"""Relative change below which a merge counts as unchanged; rounding stays far below it."""

UNUSED = {
    "split": "test",
    "normalize_by": "measured",
    "max_rank": None,
    "keep_adapter": False,
    "force": False,
    "eval": {"mode": "all", "protocol": "float32"},
}
"""What a merge that is scored is asked beside."""

Say = Callable[[float], str]


@dataclass(frozen=True)
class CardPlan:
    """A card to be made.

    Attributes:
        merge: what merges what.
        output: folder that the card is written into; None for none.
    """

    merge: MergePlan
    output: Path | None


@dataclass(frozen=True)
class Line:
    """One thing that was tried.

    Attributes:
        probe: what was done.
        measured: the relative change in short, or "refused", or "error".
        said: what that means.
    """

    probe: str
    measured: str
    said: str


@dataclass(frozen=True)
class Card:
    """What was found of a method.

    Attributes:
        title: the method, and the adapters that it was tried on.
        options: of the merge.
        lines: from top to bottom.
    """

    title: str
    options: Mapping[str, Any]
    lines: tuple[Line, ...]


def parse_method_card(config: Mapping[str, Any]) -> CardPlan:
    """Read the configuration of `experiments/method_card.py`.

    Args:
        config: plain values with the keys of `conf/method_card.yaml`.

    Raises:
        KnotsError: as `parse_merge`; or nothing is merged, or the rule looks at data and is not told which.
    """
    own = {key: value for key, value in config.items() if key != "output"}
    plan = parse_merge({**own, **UNUSED})
    if plan.kind != "merged":
        raise KnotsError(f"merge={plan.kind}: {plan.kind} merges nothing, so there is no card of it")
    rule = plan.options["rule"]
    if rule in CALIBRATED and plan.calibration is None:
        raise KnotsError(f"rule {rule!r} looks at data: use merge={rule}, which says at which")
    output = config["output"]
    return CardPlan(plan, None if output is None else Path(text("output", output)).expanduser())


def make_card(plan: CardPlan) -> Card:
    """Try a rule on the adapters of the plan's tasks; written into the plan's folder where it names one.

    An error of a user's own rule is told in the line of the probe that met it.

    Raises:
        KnotsError: the options or the adapters are such that nothing can be merged at all.
    """
    merge_plan = plan.merge
    shop = workshop_for(merge_plan, keeps=False)
    device = quiet_trainer(merge_plan.trainer).strategy.root_device
    merge, adapters = merger(merge_plan, shop, device), shop.adapters
    own = ":" in merge_plan.options["rule"]
    _try_once(merge, adapters, own)
    where = f"{len(adapters)} adapters of {merge_plan.model.name}"
    scale = merge_plan.options["scale"]
    lines = [
        *(_probed(name, measure, say, own) for name, measure, say in _probes(adapters, merge, scale)),
        *_costs(adapters, merge, device, own),
    ]
    card = Card(f"{merge_plan.label} on {where}", merge_plan.options, tuple(lines))
    if plan.output is not None:
        _write(card, plan.output)
    return card


def _try_once(merge: Merge, adapters: Sequence[Adapter], own: bool) -> None:
    """Let mistakes in the options and adapters show as such, not in every line."""
    try:
        merge(adapters)
    except KnotsError:
        raise
    except Exception:
        if not own:
            raise


def _probes(
    adapters: Sequence[Adapter], merge: Merge, scale: float
) -> list[tuple[str, Callable[[], float], Say]]:
    """What is tried: its name, how its relative change is measured, and how that is said."""
    factors = any(isinstance(u, LowRank) for adapter in adapters for u in adapter.updates.values())
    first = adapters[0].name
    return [
        ("one task alone", lambda: probes.alone(adapters, merge, scale=scale), _of_one(scale)),
        ("another order", lambda: probes.reordering(adapters, merge), _either(
            "The order of the tasks does not matter.",
            "The merge depends on the order of the tasks.",
        )),
        ("other factors", lambda: probes.factor_change(adapters, merge), _either(
            "(B G, G^-1 A) in place of (B, A) gives the same merge."
            if factors
            else "The adapters have no factors to change.",
            "The merge depends on how an update is split into factors: (B G, G^-1 A) gives another.",
        )),
        ("all times 2", lambda: probes.scaling(adapters, merge), _either(
            "Updates twice as large give a merge twice as large.",
            "Updates twice as large do not give a merge twice as large.",
        )),
        ("one times 2", lambda: probes.one_scaled(adapters, merge), _either(
            f"Doubling {first} alone does not move the merge.",
            f"Doubling {first} alone moves the merge this far.",
        )),
        ("with a zero adapter", lambda: probes.zero_adapter(adapters, merge), _either(
            "An adapter that changes nothing does not matter.",
            "An adapter that changes nothing moves the merge.",
        )),
        ("with one of size 1e-6", lambda: probes.small_adapter(adapters, merge), _either(
            "An adapter that hardly changes anything does not matter.",
            "An adapter that hardly changes anything moves the merge, as in a mean over all tasks.",
        )),
        ("all listed twice", lambda: probes.twice(adapters, merge), _of_two),
        ("the same call again", lambda: float(not probes.repeatable(adapters, merge)), _of_bits),
    ]  # fmt: skip


def _either(still: str, moved: str) -> Say:
    return lambda change: still if change < STILL else moved


def _of_one(scale: float) -> Say:
    return _either(
        f"One adapter comes back as it was, times the scale of {scale:g}.",
        f"One adapter does not come back as it was, times the scale of {scale:g}.",
    )


def _of_two(change: float) -> str:
    if change < STILL:
        return "Listing every adapter twice changes nothing, as in a mean."
    if abs(change - 1) < STILL:
        return "Listing every adapter twice moves the merge by its own size, as in a sum."
    return "Listing every adapter twice moves the merge."


def _of_bits(differs: float) -> str:
    return "Other bits each time: the merge cannot be repeated." if differs else "The same bits."


def _probed(probe: str, measure: Callable[[], float], say: Say, own: bool) -> Line:
    """Measure, and say what is found; a refusal, and an error of the user's own rule, are findings too."""
    try:
        change = measure()
    except KnotsError as error:
        return Line(probe, "refused", first_line(error))
    except Exception as error:
        if not own:
            raise
        return Line(probe, "error", f"{type(error).__name__}: {first_line(error)}")
    if math.isnan(change):
        return Line(probe, "NaN", "The merge holds values that are no numbers.")
    return Line(probe, f"{change:.1e}" if 0 < change < STILL else f"{change:.2g}", say(change))


def _costs(adapters: Sequence[Adapter], merge: Merge, device: Any, own: bool) -> list[Line]:
    found: list[Cost] = []

    def measure() -> float:
        found.append(measure_cost(adapters, merge, device))
        return 0.0

    failed = _probed("costs", measure, str, own)
    if not found:
        return [failed]
    cost, where = found[0], describe_device(device)
    often = f"median of {REPETITIONS}" if cost.seconds <= SHORT else "one merge"
    return [
        Line("time", span(cost.seconds), f"{often}, on {where}."),
        Line("peak memory", size_of(cost.peak_bytes), "The most that the merge holds at once, on top."),
        Line("output rank", str(cost.rank), "The largest of a module."),
        Line("parameters", amount(cost.parameters), "Numbers in the merged adapter."),
    ]


def card_view(card: Card) -> RenderableType:
    """The card for a terminal of any width."""
    table = Table(title=card.title, title_justify="left", box=box.SIMPLE_HEAD, caption=_options(card))
    table.caption_justify = "left"
    for name in ("tried", "relative change"):
        table.add_column(name, no_wrap=name == "tried")
    table.add_column("that is")
    for line in card.lines:
        table.add_row(line.probe, line.measured, line.said)
    return table


def markdown(card: Card) -> str:
    """The same as a table in Markdown."""
    rows = [(line.probe, line.measured, line.said) for line in card.lines]
    body = [" | ".join(("", *(cell.replace("|", "\\|") for cell in row), "")).strip() for row in rows]
    head = ["| tried | relative change | that is |", "| --- | ---: | --- |"]
    return "\n".join([f"**{card.title}**", "", *head, *body, "", _options(card)]) + "\n"


def _options(card: Card) -> str:
    said = ", ".join(f"{key} {value}" for key, value in card.options.items() if value is not None)
    return f"options: {said}"


def _write(card: Card, folder: Path) -> None:
    """`method_card.md` and `method_card.json`; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "method_card.md", markdown(card).encode())
    write_whole(folder / "method_card.json", (json.dumps(asdict(card), indent=2) + "\n").encode())
