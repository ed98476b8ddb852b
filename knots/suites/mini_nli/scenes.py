"""Scenes: two people, of each of whom two of three things are told: what they do, where, and in which colour."""

from __future__ import annotations

from dataclasses import dataclass

from knots.suites.mini_nli.dice import Dice
from knots.suites.mini_nli.words import ACTIONS, COLOURS, CONTRADICTION, ENTAILMENT, NEUTRAL, PEOPLE, PLACES

ALL_ACTIONS = tuple(action for actions in ACTIONS.values() for action in actions)
ALL_PLACES = tuple(place for places in PLACES.values() for place in places)
VALUES = {"action": ALL_ACTIONS, "place": ALL_PLACES, "colour": COLOURS}
GROUPS = {value: group for table in (ACTIONS, PLACES) for group, values in table.items() for value in values}
"""What an action or a place may be called more generally."""

LABELS = (ENTAILMENT, NEUTRAL, CONTRADICTION)


@dataclass(frozen=True)
class Scene:
    """Two people and what is told of them: person -> facet -> value."""

    told: dict[str, dict[str, str]]
    text: str

    @classmethod
    def draw(cls, dice: Dice) -> Scene:
        """A random scene."""
        told = {}
        values = {facet: dice.sample(known, 2) for facet, known in VALUES.items()}
        for number, person in enumerate(dice.sample(PEOPLE, 2)):
            untold = dice.pick(tuple(VALUES))
            told[person] = {facet: values[facet][number] for facet in VALUES if facet != untold}
        clauses = [_clause(person, facets) for person, facets in told.items()]
        return cls(told, f"{dice.pick((' and ', ' , ')).join(clauses)} .")

    def claim(self, label: int, dice: Dice) -> str:
        """A sentence on one of the two that has this label."""
        person = dice.pick(tuple(self.told))
        facets = self.told[person]
        if label == NEUTRAL:
            (facet,) = set(VALUES) - set(facets)
            return _statement(person, facet, _general(dice.pick(VALUES[facet]), dice))
        facet = dice.pick(tuple(facets))
        true = facets[facet]
        if label == ENTAILMENT:
            return _statement(person, facet, _general(true, dice))
        return _statement(person, facet, self._false(person, facet, true, dice))

    def _false(self, person: str, facet: str, true: str, dice: Dice) -> str:
        """A value that cannot be true: more often than not the other person's."""
        elsewhere = [facets[facet] for other, facets in self.told.items() if other != person and facet in facets]
        value = dice.pick(elsewhere) if elsewhere and dice.chance(0.6) else dice.other(VALUES[facet], true)
        return _general(value, dice) if GROUPS.get(value) != GROUPS.get(true) else value


def _general(value: str, dice: Dice) -> str:
    return GROUPS[value] if value in GROUPS and dice.chance(0.5) else value


def _clause(person: str, facets: dict[str, str]) -> str:
    colour = f" in {facets['colour']}" if "colour" in facets else ""
    place = f" in the {facets['place']}" if "place" in facets else ""
    return f"the {person}{colour} {facets.get('action', 'is')}{place}"


def _statement(person: str, facet: str, value: str) -> str:
    if facet == "action":
        return f"the {person} {value} ."
    if facet == "colour":
        return f"the {person} wears {value} ."
    return f"the {person} is {value} ." if value in PLACES else f"the {person} is in the {value} ."
