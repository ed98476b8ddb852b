"""Orders: two comparisons of three people, and what follows for two of them."""

from __future__ import annotations

from dataclasses import dataclass

from knots.suites.mini_nli.dice import Dice
from knots.suites.mini_nli.words import COMPARISONS, CONTRADICTION, ENTAILMENT, NAMES, NEUTRAL

LABELS = (ENTAILMENT, NEUTRAL, CONTRADICTION)


@dataclass(frozen=True)
class Order:
    """Which of three people stands above which, in one respect.

    Attributes:
        words: the comparison and its reverse.
        above: (higher, lower) of each sentence.
        people: the three, in no order.
    """

    words: tuple[str, str]
    above: tuple[tuple[str, str], tuple[str, str]]
    people: tuple[str, ...]
    text: str

    @classmethod
    def draw(cls, dice: Dice) -> Order:
        """A chain, or two people on the same side of a third."""
        words = dice.pick(COMPARISONS)
        first, second, third = dice.sample(NAMES, 3)
        if dice.chance(0.5):
            above = ((first, second), (second, third))
        else:
            above = ((first, third), (second, third)) if dice.chance(0.5) else ((third, first), (third, second))
        sentences = [_compare(*pair, words, dice) for pair in dice.shuffled(above)]
        return cls(words, above, (first, second, third), f"{' . '.join(sentences)} .")

    def claim(self, label: int, dice: Dice) -> str:
        """A comparison of two of them that has this label."""
        known = self.follows()
        if label == NEUTRAL:
            return self._open(known, dice)
        derived = [pair for pair in known if pair not in self.above]
        high, low = dice.pick(derived) if derived and dice.chance(0.4) else dice.pick(self.above)
        pair = (high, low) if label == ENTAILMENT else (low, high)
        return f"{_compare(*pair, self.words, dice)} ."

    def follows(self) -> list[tuple[str, str]]:
        """Every (higher, lower) that is certain."""
        through = [(a, d) for a, b in self.above for c, d in self.above if b == c]
        return [*self.above, *through]

    def _open(self, known: list[tuple[str, str]], dice: Dice) -> str:
        """A comparison that may be true or not: of two people, or in another respect."""
        pairs = [(a, b) for a in self.people for b in self.people if a != b]
        unknown = [pair for pair in pairs if pair not in known and pair[::-1] not in known]
        if unknown and dice.chance(0.8):
            return f"{_compare(*dice.pick(unknown), self.words, dice)} ."
        words = dice.other(COMPARISONS, self.words)
        return f"{_compare(*dice.pick(pairs), words, dice)} ."


def _compare(high: str, low: str, words: tuple[str, str], dice: Dice) -> str:
    more, less = words
    return f"{high} is {more} than {low}" if dice.chance(0.5) else f"{low} is {less} than {high}"
