"""Comparisons: one person is compared with another in two respects, and that is said in other words."""

from __future__ import annotations

from dataclasses import dataclass

from knots.suites.mini_nli.dice import Dice
from knots.suites.mini_nli.words import COMPARISONS, CONTRADICTION, ENTAILMENT, NAMES, NEUTRAL

LABELS = (ENTAILMENT, NEUTRAL, CONTRADICTION)
BACK = {word: back for pair in COMPARISONS for word, back in (pair, pair[::-1])}
"""Each comparison and the one that says the same of the two exchanged."""


@dataclass(frozen=True)
class Comparison:
    """Two people, and the words that compare the first with the second."""

    people: tuple[str, str]
    words: tuple[str, ...]
    text: str

    @classmethod
    def draw(cls, dice: Dice, short: bool = False) -> Comparison:
        """Two random people in two respects, in a short one in one."""
        one, other = dice.sample(NAMES, 2)
        words = tuple(dice.pick(pair) for pair in dice.sample(COMPARISONS, 1 if short else 2))
        return cls((one, other), words, f"{one} is {' and '.join(words)} than {other} .")

    def claim(self, label: int, dice: Dice) -> str:
        """A comparison of the same two that has this label."""
        one, other = self.people
        if label == NEUTRAL:
            known = [*self.words, *(BACK[word] for word in self.words)]
            word = dice.other(tuple(BACK), *known)
            return _compare(one, other, word) if dice.chance(0.5) else _compare(other, one, word)
        word = dice.pick(self.words)
        exchanged = dice.chance(0.15)
        if label == CONTRADICTION:
            word = BACK[word]
        return _compare(other, one, BACK[word]) if exchanged else _compare(one, other, word)


def _compare(one: str, other: str, word: str) -> str:
    return f"{one} is {word} than {other} ."
