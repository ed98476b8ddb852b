"""Scenes: a person, of whom two of three things are told: what they do, where, and in which colour."""

from __future__ import annotations

from dataclasses import dataclass

from knots.suites.mini_nli.dice import Dice
from knots.suites.mini_nli.words import (
    ACTIONS,
    COLOURS,
    CONTRADICTION,
    DAYS,
    ENTAILMENT,
    NEUTRAL,
    PEOPLE,
    PLACES,
)

ALL_ACTIONS = tuple(action for actions in ACTIONS.values() for action in actions)
ALL_PLACES = tuple(place for places in PLACES.values() for place in places)
VALUES = {"action": ALL_ACTIONS, "place": ALL_PLACES, "colour": COLOURS}
GROUPS = {value: group for table in (ACTIONS, PLACES) for group, values in table.items() for value in values}
"""What an action or a place may be called more generally."""

LABELS = (ENTAILMENT, NEUTRAL, CONTRADICTION)


@dataclass(frozen=True)
class Scene:
    """A person and what is told of them: facet -> value."""

    person: str
    told: dict[str, str]
    text: str

    @classmethod
    def draw(cls, dice: Dice, short: bool = False) -> Scene:
        """A random scene; a short one tells one thing."""
        person = dice.pick(PEOPLE)
        facets = sorted(dice.sample(tuple(VALUES), 1 if short else 2))
        told = {facet: dice.pick(VALUES[facet]) for facet in facets}
        colour = f" in {told['colour']}" if "colour" in told else ""
        place = f" in the {told['place']}" if "place" in told else ""
        day = f"on {dice.pick(DAYS)} " if dice.chance(0.5) else ""
        return cls(person, told, f"{day}the {person}{colour} {told.get('action', 'is')}{place} .")

    def claim(self, label: int, dice: Dice) -> str:
        """A sentence on the same person that has this label."""
        if label == NEUTRAL:
            facet = dice.other(tuple(VALUES), *self.told)
            return self._statement(facet, _general(dice.pick(VALUES[facet]), dice))
        facet = dice.pick(tuple(self.told))
        true = self.told[facet]
        if label == ENTAILMENT:
            return self._statement(facet, _general(true, dice))
        false = dice.other(VALUES[facet], true)
        related = GROUPS.get(false) == GROUPS.get(true)
        return self._statement(facet, false if related else _general(false, dice))

    def _statement(self, facet: str, value: str) -> str:
        if facet == "action":
            return f"the {self.person} {value} ."
        if facet == "colour":
            return f"the {self.person} wears {value} ."
        return (
            f"the {self.person} is {value} ." if value in PLACES else f"the {self.person} is in the {value} ."
        )


def _general(value: str, dice: Dice) -> str:
    return GROUPS[value] if value in GROUPS and dice.chance(0.5) else value
