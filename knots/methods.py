"""The named pairs of space and rule: one row a method, with its paper and the options that it is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Method(Mapping[str, str]):
    """A named pair of space and rule; as a mapping it holds just these two, ready for `merge(**method)`.

    Attributes:
        space: a key of `knots.spaces.SPACES`.
        rule: a key of `knots.rules.RULES`.
        paper: where the method comes from.
        takes: options beside `scale` that the method is about.
    """

    space: str
    rule: str
    paper: str
    takes: tuple[str, ...] = ()

    def __getitem__(self, key: str) -> str:
        if key not in ("space", "rule"):
            raise KeyError(key)
        return str(getattr(self, key))

    def __iter__(self) -> Iterator[str]:
        return iter(("space", "rule"))

    def __len__(self) -> int:
        return 2


TASK_ARITHMETIC = "arXiv:2212.04089"
TIES = "arXiv:2306.01708"
DARE = "arXiv:2311.03099"
KNOTS = "arXiv:2410.19735"
CORE = "arXiv:2509.17786"
TIES_OPTIONS = ("density", "reduce", "trim")
DARE_OPTIONS = ("drop", "seed", "dare_rng")

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
    "regmean": Method("full", "regmean", "arXiv:2212.09849", ("grams", "off_diagonal", "ridge")),
    "fisher": Method("full", "fisher", "arXiv:2111.09832", ("fishers", "floor")),
    "tsv": Method("full", "tsv", "arXiv:2412.00081"),
    "cart": Method("full", "cart", "arXiv:2412.12153", ("pruning_rank", "cart_scale")),
    "core_ties": Method("core", "ties", CORE, TIES_OPTIONS),
    "core_tsv": Method("core", "tsv", CORE),
    "core_cart": Method("core", "cart", CORE, ("pruning_rank", "cart_scale")),
}
