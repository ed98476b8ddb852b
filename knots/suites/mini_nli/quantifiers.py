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
"""(quantifier told, quantifier claimed) -> label where the claim is on a smaller, the same, a larger group."""


@dataclass(frozen=True)
class Quantity:
    """Two sentences, each on how many of a kind are what."""

    told: tuple[tuple[str, str, str], ...]
    text: str

    @classmethod
    def draw(cls, dice: Dice) -> Quantity:
        """Two random sentences on kinds of different families."""
        first = dice.pick(tuple(KINDS))
        second = dice.pick([kind for kind in KINDS if KINDS[kind].family != KINDS[first].family])
        traits = dice.sample(TRAITS, 2)
        told = tuple((dice.pick(QUANTIFIERS), kind, trait) for kind, trait in zip((first, second), traits, strict=True))
        return cls(told, f"{' and '.join(_sentence(*one) for one in told)} .")

    def claim(self, label: int, dice: Dice) -> str:
        """A sentence on one of the two kinds that has this label."""
        told, kind, trait = dice.pick(self.told)
        if label == NEUTRAL and dice.chance(0.25):
            # What is told of the other kind.
            (elsewhere,) = {other for _, _, other in self.told} - {trait}
            return f"{_sentence(dice.pick(QUANTIFIERS), _group(kind, dice.pick(GROUPS), dice), elsewhere)} ."
        fitting = [
            (claimed, group)
            for claimed in QUANTIFIERS
            for group, given in zip(GROUPS, RULES[told, claimed], strict=True)
            if given == label
        ]
        claimed, group = dice.pick(fitting)
        return f"{_sentence(claimed, _group(kind, group, dice), trait)} ."


def _group(kind: str, size: str, dice: Dice) -> str:
    if size == "same":
        return kind
    if size == "larger":
        return KINDS[kind].family
    return dice.pick(KINDS[kind].members) if dice.chance(0.6) else f"{dice.pick(COLOURS)} {kind}"


def _sentence(quantifier: str, group: str, trait: str) -> str:
    return f"{quantifier} {group} are {trait}"
