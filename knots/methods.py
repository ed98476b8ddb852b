"""The named pairs of space and rule: one row a method, with its paper and the options that it is about.

Some papers print another method's name over a variant of it. Those have names and rows of their own, so that
figures which differ can be explained by measurement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method(Mapping[str, str]):
    """A named pair of space and rule; as a mapping it holds these two, ready for `merge(**method)`.

    A variant holds the options as well that tell it from the method it is a variant of.

    Attributes:
        space: a key of `knots.spaces.SPACES`.
        rule: a key of `knots.rules.RULES`.
        paper: where the method comes from.
        takes: options beside `scale` that the method is about.
        options: of the rule, that make it a variant.
    """

    space: str
    rule: str
    paper: str
    takes: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, key: str) -> str:
        return {"space": self.space, "rule": self.rule, **self.options}[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("space", "rule", *self.options))

    def __len__(self) -> int:
        return 2 + len(self.options)


TASK_ARITHMETIC = "arXiv:2212.04089"
TIES = "arXiv:2306.01708"
DARE = "arXiv:2311.03099"
KNOTS = "arXiv:2410.19735"
CORE = "arXiv:2509.17786"
TARA = "arXiv:2603.26299"
TIES_OPTIONS = ("density", "reduce", "trim")
DARE_OPTIONS = ("drop", "seed", "dare_rng")

# TARA's TIES, of which KnOTS-TIES is one too: thresholds by module, signs by count, DARE after the trimming.
COUNT = {"trim": "module", "elect": "count"}
DARE_COUNT = {**COUNT, "dare_after": "trim"}
MARKS = {("elect", "count"), ("dare_after", "trim")}
"""Options that make a method another one, which has no name unless it is in the table."""

# `sum` and `regmean` give the same merge in `knots` as in `full` space (both are linear in the columns),
# so only the cheaper pair has a name.
METHODS: Mapping[str, Method] = {
    "task_arithmetic": Method("full", "sum", TASK_ARITHMETIC, ("reduce",)),
    "dare_task_arithmetic": Method("full", "sum", DARE, ("reduce", *DARE_OPTIONS)),
    "ties": Method("full", "ties", TIES, TIES_OPTIONS),
    "dare_ties": Method("full", "ties", DARE, (*TIES_OPTIONS, *DARE_OPTIONS)),
    "knots_ties": Method("knots", "ties", KNOTS, TIES_OPTIONS),
    "knots_dare_ties": Method("knots", "ties", KNOTS, (*TIES_OPTIONS, *DARE_OPTIONS)),
    "knots_rows_ties": Method("knots_rows", "ties", KNOTS, TIES_OPTIONS),
    "knots_ties_unscaled": Method("knots_unscaled", "ties", CORE, ("density", "reduce"), {"trim": "module"}),
    "knots_tsv_unscaled": Method("knots_unscaled", "tsv", CORE),
    "ties_count": Method("full", "ties", TARA, ("density", "reduce"), COUNT),
    "knots_ties_count": Method("knots", "ties", TARA, ("density", "reduce"), COUNT),
    "dare_ties_count": Method("full", "ties", TARA, ("density", "reduce", *DARE_OPTIONS), DARE_COUNT),
    "knots_dare_ties_count": Method("knots", "ties", TARA, ("density", "reduce", *DARE_OPTIONS), DARE_COUNT),
    "regmean": Method("full", "regmean", "arXiv:2212.09849", ("grams", "off_diagonal", "ridge")),
    "fisher": Method("full", "fisher", "arXiv:2111.09832", ("fishers", "floor")),
    "tsv": Method("full", "tsv", "arXiv:2412.00081"),
    "cart": Method("full", "cart", "arXiv:2412.12153", ("pruning_rank", "cart_scale")),
    "core_ties": Method("core", "ties", CORE, TIES_OPTIONS),
    "core_tsv": Method("core", "tsv", CORE),
    "core_cart": Method("core", "cart", CORE, ("pruning_rank", "cart_scale")),
}


def name_of(options: Mapping[str, Any]) -> str | None:
    """The name of the method that options of `merge` make, of which none may be absent; None for no name."""
    marks = {mark for mark in MARKS if options.get(mark[0]) == mark[1]}
    # A variant is its method too; the name that says more is meant.
    for name, method in sorted(METHODS.items(), key=lambda item: -len(item[1])):
        drops = "drop" in method.takes
        if drops == (options["drop"] > 0) and marks <= method.items() <= options.items():
            return name
    return None
