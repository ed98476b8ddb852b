"""Answers: a question on an event, and a sentence that tells its answer or does not."""

from __future__ import annotations

from dataclasses import dataclass

from knots.suites.mini_nli.dice import Dice
from knots.suites.mini_nli.scenes import ALL_PLACES
from knots.suites.mini_nli.words import CONTRADICTION, DAYS, DEEDS, ENTAILMENT, NAMES, OBJECTS

LABELS = (ENTAILMENT, CONTRADICTION)
ASKED = {"where": "where", "when": "when", "whom": "with whom"}


@dataclass(frozen=True)
class Event:
    """Who does what to which object, and what is told of it besides: facet -> answer."""

    name: str
    deed: str
    thing: str
    told: dict[str, str]
    text: str

    @classmethod
    def draw(cls, dice: Dice, short: bool = False) -> Event:
        """A random event with two facets told, in a short one with one."""
        name, friend = dice.sample(NAMES, 2)
        deed, thing = dice.pick(tuple(DEEDS)), dice.pick(OBJECTS)
        answers = {
            "where": f"in the {dice.pick(ALL_PLACES)}",
            "when": f"on {dice.pick(DAYS)}",
            "whom": f"with {friend}",
        }
        told = {facet: answers[facet] for facet in dice.sample(tuple(ASKED), 1 if short else 2)}
        return cls(name, deed, thing, told, f"{name} {deed} the {thing} {' '.join(told.values())} .")

    def claim(self, label: int, dice: Dice) -> str:
        """A question that the sentence answers (entailment) or does not (contradiction, as with QNLI)."""
        name, deed, thing, facet = self.name, self.deed, self.thing, dice.pick(tuple(self.told))
        if label == CONTRADICTION:
            wrong = dice.pick(("name", "thing")) if dice.chance(0.2) else "facet"
            name = dice.other(NAMES, name) if wrong == "name" else name
            thing = dice.other(OBJECTS, thing) if wrong == "thing" else thing
            facet = dice.other(tuple(ASKED), *self.told) if wrong == "facet" else facet
        return f"{ASKED[facet]} does {name} {DEEDS[deed]} the {thing} ?"

    def answer(self, question: str) -> str:
        """The words that answer a question which it does answer."""
        (facet,) = [facet for facet, words in ASKED.items() if question.startswith(words)]
        return self.told[facet]
