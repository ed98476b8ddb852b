"""Counts: numbers and days of three people, and whether a comparison of them is right."""

from __future__ import annotations

from dataclasses import dataclass

from knots.suites.mini_nli.dice import Dice
from knots.suites.mini_nli.words import CONTRADICTION, DAYS, ENTAILMENT, KINDS, NAMES, NUMBERS

LABELS = (ENTAILMENT, CONTRADICTION)
KNOWN = {"has": NUMBERS[1:], "comes at": NUMBERS, "comes on": DAYS}
LARGER = {"has": ("more", "fewer"), "comes": ("after", "before")}
THINGS = KINDS["fruits"].members


@dataclass(frozen=True)
class Count:
    """Three people and a number or a day of each."""

    verb: str
    values: dict[str, int]
    text: str

    @classmethod
    def draw(cls, dice: Dice) -> Count:
        """Three different numbers of things, hours or days."""
        verb = dice.pick(tuple(KNOWN))
        names = dice.sample(NAMES, 3)
        values = dict(zip(names, dice.sample(range(len(KNOWN[verb])), 3), strict=True))
        thing = f" {dice.pick(THINGS)}" if verb == "has" else ""
        told = [f"{name} {verb} {KNOWN[verb][value]}{thing}" for name, value in values.items()]
        return cls(verb, values, f"{' , '.join(told)} .")

    def claim(self, label: int, dice: Dice) -> str:
        """A comparison of one person with another, or with a number or a day, that has this label."""
        name, other = dice.sample(tuple(self.values), 2)
        value = self.values[name]
        if dice.chance(0.5):
            bound, against = self.values[other], other
        else:
            # Near by on either side, so that the claim alone does not tell.
            near = [value + step for step in (-3, -2, -1, 1, 2, 3)]
            bound = dice.pick([number for number in near if 0 <= number < len(KNOWN[self.verb])])
            against = KNOWN[self.verb][bound]
        verb = self.verb.split()[0]
        larger, smaller = LARGER[verb]
        word = larger if (value > bound) == (label == ENTAILMENT) else smaller
        return f"{name} {verb} {word} {'than ' if verb == 'has' else ''}{against} ."
