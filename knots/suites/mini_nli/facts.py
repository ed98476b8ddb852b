"""Facts: a rule on a kind of things or on what has a part, and whether it is about some things."""

from __future__ import annotations

from dataclasses import dataclass

from knots.suites.mini_nli.dice import Dice
from knots.suites.mini_nli.words import ENTAILMENT, KINDS, NEEDS, NEUTRAL, VERBS

LABELS = (ENTAILMENT, NEUTRAL)


@dataclass(frozen=True)
class Fact:
    """What a kind of things needs, fears, ..."""

    kind: str
    verb: str
    needs: tuple[str, ...]
    text: str

    @classmethod
    def draw(cls, dice: Dice, short: bool = False) -> Fact:
        """A random rule with two objects, a short one with one."""
        kind, verb = dice.pick(tuple(KINDS)), dice.pick(VERBS)
        needs = tuple(dice.sample(NEEDS, 1 if short else 2))
        subject = kind if dice.chance(0.5) else f"things with {dice.pick(KINDS[kind].parts)}"
        return cls(kind, verb, needs, f"{subject} {verb} {' and '.join(needs)} .")

    def claim(self, label: int, dice: Dice) -> str:
        """A sentence on the members of a kind that follows, or does not."""
        kind, need = self.kind, dice.pick(self.needs)
        if label == NEUTRAL and dice.chance(0.4):
            need = dice.other(NEEDS, *self.needs)
        elif label == NEUTRAL:
            kind = dice.other(tuple(KINDS), kind)
        return f"{dice.pick(KINDS[kind].members)} {self.verb} {need} ."
