"""Rules: merge the coordinates of T tasks into one. One family a file; `RULES` names them all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from knots.errors import KnotsError, unknown
from knots.rules.base import Census, Rule, Session, Site
from knots.rules.custom import Custom, option_names, resolve_rule, rule_name
from knots.rules.fisher import Fisher
from knots.rules.linear import Sum
from knots.rules.regmean import RegMean
from knots.rules.spectral import Cart, Tsv
from knots.rules.ties import Ties

__all__ = ["RULES", "Census", "Rule", "Session", "Site", "build_rule", "resolve_rule", "rule_name"]

RULES: dict[str, type[Rule]] = {
    "sum": Sum,
    "ties": Ties,
    "regmean": RegMean,
    "fisher": Fisher,
    "tsv": Tsv,
    "cart": Cart,
}


def build_rule(rule: str | Callable[..., Tensor], options: Mapping[str, Any]) -> Rule:
    """Make a rule from its name, a `path/to/file.py:function`, or a function, and its options.

    Args:
        rule: which rule.
        options: what the user set, by name. `trim` is dropped for rules that trim nothing.

    Raises:
        KnotsError: unknown rule, an option that the rule does not take, or one it needs and lacks.
    """
    if isinstance(rule, str) and ":" in rule:
        rule = resolve_rule(rule)
    if callable(rule):
        return _custom(rule, dict(options))
    if rule not in RULES:
        raise unknown("rule", str(rule), RULES)
    fields = dataclasses.fields(RULES[rule])
    known = {f.name for f in fields}
    given = {k: v for k, v in options.items() if k in known or k != "trim"}
    _refuse_unknown(rule, given, known)
    needed = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in given]
    if needed:
        raise KnotsError(f"rule {rule!r} needs {', '.join(needed)}")
    return RULES[rule](**given)


def _custom(function: Callable[..., Tensor], options: dict[str, Any]) -> Rule:
    known, takes_any = option_names(function)
    if "trim" not in known:
        options.pop("trim", None)
    if not takes_any:
        _refuse_unknown(rule_name(function), options, known)
    return Custom(function, options)


def _refuse_unknown(rule: str, given: Mapping[str, Any], known: set[str] | frozenset[str]) -> None:
    for name in given:
        if name not in known:
            taken = ", ".join(sorted(known)) or "none"
            raise KnotsError(
                f"rule {rule!r} does not take the option {name}={given[name]!r} (its options: {taken})"
            )
