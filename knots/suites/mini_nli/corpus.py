"""What the base reads before it sees a task: facts of the small world, and passages with what follows from them.

A document is a list of paragraphs. None of them puts a wrong claim in the form of a task: where a task has the pair
(`the boy sleeps in the park .`, `the boy runs .`), a document asks `is it that the boy runs ? no .`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from knots.suites.mini_nli import TASKS, Source, World, draw_world
from knots.suites.mini_nli.answers import Answer
from knots.suites.mini_nli.dice import Dice
from knots.suites.mini_nli.words import (
    ACTIONS,
    COMPARISONS,
    CONTRADICTION,
    DAYS,
    ENTAILMENT,
    KINDS,
    NAMES,
    NEUTRAL,
    NUMBERS,
    PLACES,
)

STREAM = 900
"""Keeps the stream of the documents apart from those of the tasks."""

VERDICTS = {ENTAILMENT: "yes", NEUTRAL: "perhaps", CONTRADICTION: "no"}


@dataclass(frozen=True)
class CorpusStyle:
    """What the documents are made of, and so how far they are from the tasks.

    Attributes:
        facts: share of documents that tell facts of the world; the others tell a passage and what follows.
        sentences: facts of such a document.
        remarks: what is said after a passage: conclusions and questions.
        conclusions: share of remarks that state what follows; the others ask whether something does.
        wrong: share of the questions with a verdict that is drawn by chance.
    """

    facts: float
    sentences: int
    remarks: int
    conclusions: float
    wrong: float


def documents(style: CorpusStyle, seed: int) -> Iterator[list[str]]:
    """Endless documents, each a list of paragraphs, about worlds of the split `train` alone."""
    dice = Dice(seed, STREAM)
    while True:
        if dice.chance(style.facts):
            yield [" ".join(f"{dice.pick(FACTS)(dice)} ." for _ in range(style.sentences))]
        else:
            source = TASKS[dice.pick(tuple(TASKS))]
            world = draw_world(source, "train", dice)
            remark = _answered if source.asks else _remark
            yield [world.text, *(remark(source, world, style, dice) for _ in range(style.remarks))]


def vocabulary() -> list[str]:
    """Every word of documents and tasks, sorted."""
    texts = documents(CorpusStyle(facts=0.3, sentences=8, remarks=3, conclusions=0.3, wrong=0.1), seed=0)
    return sorted({word for _ in range(20_000) for text in next(texts) for word in text.split()})


def _remark(source: Source, world: World, style: CorpusStyle, dice: Dice) -> str:
    """A conclusion, or a question with its verdict."""
    if dice.chance(style.conclusions):
        return f"so {world.claim(ENTAILMENT, dice)}"
    label = dice.pick(source.labels)
    claim = world.claim(label, dice).removesuffix(" .")
    said = dice.pick(source.labels) if dice.chance(style.wrong) else label
    return f"is it that {claim} ? {VERDICTS[said]} ."


def _answered(source: Source, world: World, style: CorpusStyle, dice: Dice) -> str:
    """A question on an event, with its answer where the passage tells it."""
    assert isinstance(world, Answer)
    label = dice.pick(source.labels)
    question = world.claim(label, dice)
    event = next(event for event in world.events if event.name in question.split())
    return f"{question} {event.answer if label == ENTAILMENT else 'nobody knows'} ."


def _kind(dice: Dice) -> str:
    name = dice.pick(tuple(KINDS))
    kind = KINDS[name]
    told = dice.pick((f"are {name}", f"are {kind.family}", f"are things with {dice.pick(kind.parts)}"))
    return f"{dice.pick(kind.members)} {told}"


def _family(dice: Dice) -> str:
    name = dice.pick(tuple(KINDS))
    kind = KINDS[name]
    return f"{name} are {dice.pick((kind.family, f'things with {dice.pick(kind.parts)}'))}"


def _action(dice: Dice) -> str:
    group = dice.pick(tuple(ACTIONS))
    return f"who {dice.pick(ACTIONS[group])} {group}"


def _place(dice: Dice) -> str:
    group = dice.pick(tuple(PLACES))
    return f"the {dice.pick(PLACES[group])} is {group}"


def _number(dice: Dice) -> str:
    values, up, down = dice.pick(((DAYS, "before", "after"), (NUMBERS, "fewer than", "more than")))
    low, high = sorted(dice.sample(range(len(values)), 2))
    up, down = dice.pick(((up, down), ("before", "after")))
    return dice.pick((f"{values[low]} is {up} {values[high]}", f"{values[high]} is {down} {values[low]}"))


def _reverse(dice: Dice) -> str:
    (one, other), words = dice.sample(NAMES, 2), dice.shuffled(dice.pick(COMPARISONS))
    return f"if {one} is {words[0]} than {other} then {other} is {words[1]} than {one}"


FACTS: tuple[Callable[[Dice], str], ...] = (_kind, _kind, _kind, _family, _action, _place, _number, _number, _reverse)
