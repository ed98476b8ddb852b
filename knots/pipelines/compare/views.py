"""What is shown of a comparison: a row a task, and a sentence with the verdict."""

from __future__ import annotations

from knots.analysis.statistics import Estimate, detectable
from knots.evaluation.intervals import DRAWS
from knots.pipelines.compare.run import Compared, Difference
from knots.reporting.sheets import Cell, Row, Sheet

LEVEL = 0.05
COLUMNS = ("A", "B", "B - A", "only A", "only B", "p", "p, Holm")


def compared_sheet(compared: Compared) -> Sheet:
    """The table, with the verdict as its last note."""
    rows = [_row(task, found) for task, found in compared.tasks.items()]
    first, second = compared.titles
    return Sheet(
        name="compare",
        title=f"A: {first}; B: {second}; {unit(compared)}, %",
        columns=COLUMNS,
        rows=(*rows, _row("all items" if compared.hits else "average", compared.whole)),
        notes=(*_notes(compared), verdict(compared)),
        decimals=2,
    )


def unit(compared: Compared) -> str:
    """What the numbers are."""
    if compared.hits is not None:
        return f"joint hits@{compared.hits}"
    return "accuracy" if compared.normalized is None else "normalized accuracy"


def _row(label: str, found: Difference) -> Row:
    cells = [_cell(found.first), _cell(found.second), _difference(found)]
    cells += [Cell(text=f"{count:,}") for count in (found.counts.first, found.counts.second)]
    cells += [Cell() if p is None else Cell(text=_p(p)) for p in (found.p, found.adjusted)]
    return Row(label, tuple(cells))


def _cell(estimate: Estimate) -> Cell:
    if estimate.interval is None:
        return Cell()
    low, high = estimate.interval
    return Cell(100 * estimate.value, interval=(100 * low, 100 * high))


def _difference(found: Difference) -> Cell:
    cell = _cell(found.difference)
    if cell.ours is None:
        return cell
    p = found.p if found.adjusted is None else found.adjusted
    star = p is not None and p <= LEVEL
    return Cell(cell.ours, interval=cell.interval, text=_points(found.difference.value), star=star)


def _points(value: float) -> str:
    # Rounded first, and zero added: no "-0.00".
    return f"{round(100 * value, 2) + 0.0:+.2f}"


def _p(p: float) -> str:
    return "<0.0001" if p < 1e-4 else f"{p:.4f}"


def _notes(compared: Compared) -> list[str]:
    whole, name = compared.whole.difference, "pooled hits" if compared.hits else "average"
    notes = [] if compared.normalized is None else [f"normalized by {compared.normalized}"]
    test = "McNemar's, as those of tasks" if compared.hits else "normal, with the bootstrap's standard error"
    notes += [
        "only A, only B: items that only one of them got right; p: exact McNemar, Holm over the tasks; "
        f"p of the {name}: {test}",
        f"intervals: bootstrap over items, {DRAWS:,} draws, paired"
        + ("" if compared.normalized is None else ", denominators drawn too"),
    ]
    if whole.above is not None and whole.error is not None:
        notes += [
            f"P(B beats A) = {whole.above:.3f}, the share of draws in which its {name} is larger",
            f"minimal detectable difference of the {name}: {100 * detectable(whole.error):.2f} points "
            "(power 80 %, level 5 %)",
        ]
    return notes


def verdict(compared: Compared) -> str:
    """In a plain sentence whether they differ, and on which tasks."""
    whole = compared.whole
    found = whole.difference
    if whole.p is None or found.interval is None or found.error is None:
        return "Verdict: none, for an accuracy to divide by is 0; reference=none divides by nothing."
    where = "over all items" if compared.hits else "on average"
    low, high = (_points(end) for end in found.interval)
    gap = (
        f"{_points(found.value)} points of {unit(compared)} {where} "
        f"(95 % interval {low} to {high}, p {_told(whole.p)})"
    )
    if whole.p <= LEVEL:
        better = "B beats A" if found.value > 0 else "A beats B"
        return f"Verdict: {better}, B - A = {gap}.{_tasks(compared)}"
    least = 100 * detectable(found.error)
    return (
        f"Verdict: undecided, B - A = {gap}; these items would show a difference of {least:.2f} points four "
        f"times in five.{_tasks(compared)}"
    )


def _told(p: float) -> str:
    return "below 0.0001" if p < 1e-4 else f"= {p:.4f}"


def _tasks(compared: Compared) -> str:
    """Tasks on which one is better, corrected for their number."""
    better: dict[str, list[str]] = {"B": [], "A": []}
    for task, found in compared.tasks.items():
        if found.adjusted is not None and found.adjusted <= LEVEL:
            better["B" if found.counts.second > found.counts.first else "A"].append(task)
    said = [f" {name} is better on {', '.join(tasks)}." for name, tasks in better.items() if tasks]
    return "".join(said) or " No single task tells them apart."
