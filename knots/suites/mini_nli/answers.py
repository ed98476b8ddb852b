"""Answers: a question on one of two events, and a sentence that tells its answer or does not."""

from __future__ import annotations

from dataclasses import dataclass

from knots.suites.mini_nli.dice import Dice
from knots.suites.mini_nli.scenes import ALL_PLACES
from knots.suites.mini_nli.words import CONTRADICTION, DAYS, DEEDS, ENTAILMENT, NAMES, OBJECTS

LABELS = (ENTAILMENT, CONTRADICTION)
ASKED = {"where": "where", "when": "when", "whom": "with whom"}


@dataclass(frozen=True)
class Event:
    """Who does what to which object, and the one thing that is told of it besides."""

    name: str
    deed: str
    thing: str
    facet: str
    answer: str

    def sentence(self) -> str:
        """The event with the thing told."""
        return f"{self.name} {self.deed} the {self.thing} {self.answer}"


@dataclass(frozen=True)
class Answer:
    """Two events in one sentence."""

    events: tuple[Event, Event]
    text: str

    @classmethod
    def draw(cls, dice: Dice) -> Answer:
        """Two events of different people and things, told of in different ways."""
        first, second, *friends = dice.sample(NAMES, 4)
        deeds, things = dice.sample(tuple(DEEDS), 2), dice.sample(OBJECTS, 2)
        facets = dice.sample(tuple(ASKED), 2)
        told = [_told(facet, friend, dice) for facet, friend in zip(facets, friends, strict=True)]
        events = (
            Event(first, deeds[0], things[0], facets[0], told[0]),
            Event(second, deeds[1], things[1], facets[1], told[1]),
        )
        return cls(events, f"{events[0].sentence()} and {events[1].sentence()} .")

    def claim(self, label: int, dice: Dice) -> str:
        """A question that the sentence answers (entailment), or does not (contradiction, as QNLI is read here)."""
        event = dice.pick(self.events)
        if label == ENTAILMENT:
            return _question(event, event.facet)
        (other,) = set(self.events) - {event}
        facet = other.facet if dice.chance(0.7) else dice.other(tuple(ASKED), event.facet, other.facet)
        return _question(event, facet)


def _told(facet: str, friend: str, dice: Dice) -> str:
    if facet == "where":
        return f"in the {dice.pick(ALL_PLACES)}"
    return f"on {dice.pick(DAYS)}" if facet == "when" else f"with {friend}"


def _question(event: Event, facet: str) -> str:
    return f"{ASKED[facet]} does {event.name} {DEEDS[event.deed]} the {event.thing} ?"
