"""Quantifiers: what `all`, `some` and `no` say of larger and smaller groups."""

from __future__ import annotations

from dataclasses import dataclass

from knots.suites.mini_nli.dice import Dice
from knots.suites.mini_nli.words import COLOURS, CONTRADICTION, ENTAILMENT, KINDS, NEUTRAL, TRAITS

LABELS = (ENTAILMENT, NEUTRAL, CONTRADICTION)
QUANTIFIERS = ("all", "some", "no")
GROUPS = ("smaller", "same", "larger")

RULES: dict[tuple[str, str], tuple[int, int, int]] = {
    ("all", "all"): (ENTAILMENT, ENTAILMENT, NEUTRAL),
    ("all", "some"): (ENTAILMENT, ENTAILMENT, ENTAILMENT),
    ("all", "no"): (CONTRADICTION, CONTRADICTION, CONTRADICTION),
    ("some", "all"): (NEUTRAL, NEUTRAL, NEUTRAL),
    ("some", "some"): (NEUTRAL, ENTAILMENT, ENTAILMENT),
    ("some", "no"): (NEUTRAL, CONTRADICTION, CONTRADICTION),
    ("no", "all"): (CONTRADICTION, CONTRADICTION, CONTRADICTION),
    ("no", "some"): (CONTRADICTION, CONTRADICTION, NEUTRAL),
    ("no", "no"): (ENTAILMENT, ENTAILMENT, NEUTRAL),
}
"""(quantifier told, quantifier claimed) -> the labels of claims on a smaller, the same, a larger group."""


@dataclass(frozen=True)
class Quantity:
    """How many of a kind are something."""

    quantifier: str
    kind: str
    traits: tuple[str, ...]
    text: str

    @classmethod
    def draw(cls, dice: Dice, short: bool = False) -> Quantity:
        """A random sentence on two traits of a kind, a short one on one."""
        quantifier, kind = dice.pick(QUANTIFIERS), dice.pick(tuple(KINDS))
        traits = tuple(dice.sample(TRAITS, 1 if short else 2))
        joined = (" or " if quantifier == "no" else " and ").join(traits)
        return cls(quantifier, kind, traits, f"{_sentence(quantifier, kind, joined)} .")

    def claim(self, label: int, dice: Dice) -> str:
        """A sentence on one trait of the kind, or of a larger or smaller group, that has this label."""
        if label == NEUTRAL and dice.chance(0.25):
            group = _group(self.kind, dice.pick(GROUPS), dice)
            return f"{_sentence(dice.pick(QUANTIFIERS), group, dice.other(TRAITS, *self.traits))} ."
        fitting = [
            (claimed, group)
            for claimed in QUANTIFIERS
            for group, given in zip(GROUPS, RULES[self.quantifier, claimed], strict=True)
            if given == label
        ]
        claimed, group = dice.pick(fitting)
        return f"{_sentence(claimed, _group(self.kind, group, dice), dice.pick(self.traits))} ."


def _group(kind: str, size: str, dice: Dice) -> str:
    if size == "same":
        return kind
    if size == "larger":
        return KINDS[kind].family
    return dice.pick(KINDS[kind].members) if dice.chance(0.6) else f"{dice.pick(COLOURS)} {kind}"


def _sentence(quantifier: str, group: str, trait: str) -> str:
    return f"{quantifier} {group} are {trait}"
