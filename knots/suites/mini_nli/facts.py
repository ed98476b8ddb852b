"""Facts: two rules on kinds of things or on what has a part, and whether one of them is about some things."""

from __future__ import annotations

from dataclasses import dataclass

from knots.suites.mini_nli.dice import Dice
from knots.suites.mini_nli.words import ENTAILMENT, KINDS, NEEDS, NEUTRAL, VERBS

LABELS = (ENTAILMENT, NEUTRAL)


@dataclass(frozen=True)
class Fact:
    """Two rules: (kind, verb, what is needed, feared, ...)."""

    rules: tuple[tuple[str, str, str], ...]
    text: str

    @classmethod
    def draw(cls, dice: Dice) -> Fact:
        """Two rules on different kinds."""
        kinds, needs = dice.sample(tuple(KINDS), 2), dice.sample(NEEDS, 2)
        rules = tuple((kind, dice.pick(VERBS), need) for kind, need in zip(kinds, needs, strict=True))
        told = [f"{_named(kind, dice)} {verb} {need}" for kind, verb, need in rules]
        return cls(rules, f"{' and '.join(told)} .")

    def claim(self, label: int, dice: Dice) -> str:
        """A sentence on the members of a kind that follows, or does not."""
        kind, verb, need = dice.pick(self.rules)
        (swapped,) = {other for other, _, _ in self.rules} - {kind}
        if label == NEUTRAL:
            kind = swapped if dice.chance(0.5) else dice.other(tuple(KINDS), kind, swapped)
        return f"{dice.pick(KINDS[kind].members)} {verb} {need} ."


def _named(kind: str, dice: Dice) -> str:
    return kind if dice.chance(0.4) else f"things with {dice.pick(KINDS[kind].parts)}"
