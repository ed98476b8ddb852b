"""Counts: how many things someone brings, at which hour or on which day, and whether a comparison holds."""

from __future__ import annotations

from dataclasses import dataclass

from knots.suites.mini_nli.dice import Dice
from knots.suites.mini_nli.words import CONTRADICTION, DAYS, ENTAILMENT, KINDS, NAMES, NUMBERS

LABELS = (ENTAILMENT, CONTRADICTION)
VALUES = {"hour": NUMBERS, "day": DAYS, "things": NUMBERS[1:]}
VERBS = {"hour": "comes", "day": "comes", "things": "brings"}
LARGER = {"comes": ("after", "before"), "brings": ("more than", "fewer than")}
THINGS = KINDS["fruits"].members


@dataclass(frozen=True)
class Count:
    """Someone, and the numbers told of them: facet -> place in its order."""

    name: str
    told: dict[str, int]
    text: str

    @classmethod
    def draw(cls, dice: Dice, short: bool = False) -> Count:
        """A random person with two numbers, in a short one with one."""
        name, thing = dice.pick(NAMES), dice.pick(THINGS)
        told = {
            facet: dice.below(len(VALUES[facet])) for facet in dice.sample(tuple(VALUES), 1 if short else 2)
        }
        words = {facet: VALUES[facet][number] for facet, number in told.items()}
        parts = [f"comes at {words['hour']}"] if "hour" in told else []
        if "day" in told:
            parts.append(f"on {words['day']}" if parts else f"comes on {words['day']}")
        if "things" in told:
            parts.append(f"{'and ' if parts else ''}brings {words['things']} {thing}")
        return cls(name, told, f"{name} {' '.join(parts)} .")

    def claim(self, label: int, dice: Dice) -> str:
        """A comparison of one of the numbers with another one that has this label."""
        facet = dice.pick(tuple(self.told))
        number, values, verb = self.told[facet], VALUES[facet], VERBS[facet]
        # Near by on either side, so that the claim alone does not tell.
        near = [number + step for step in (-3, -2, -1, 1, 2, 3)]
        bound = dice.pick([other for other in near if 0 <= other < len(values)])
        larger, smaller = LARGER[verb]
        word = larger if (number > bound) == (label == ENTAILMENT) else smaller
        return f"{self.name} {verb} {word} {values[bound]} ."
