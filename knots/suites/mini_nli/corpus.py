"""What the base reads before it sees a task: facts of the small world, passages and what follows from them.

No document has a wrong claim in the form of a task: where a task has the pair (`the boy sleeps .`,
`the boy runs .`) a document asks `is it that the boy runs ? no .`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from knots.suites.mini_nli import TASKS, Source, World, draw_world
from knots.suites.mini_nli.answers import Event
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
        asked: share of these facts that stand as a question, half of them wrong.
        short: share of passages that tell less than those of the tasks.
        echoes: share of passages that are told twice.
        remarks: what is said after a passage: conclusions and questions.
        conclusions: share of remarks that state what follows; the others ask whether something does.
        wrong: share of the questions with a verdict that is drawn by chance.
    """

    facts: float
    sentences: int
    asked: float
    short: float
    echoes: float
    remarks: int
    conclusions: float
    wrong: float


@dataclass(frozen=True)
class Paragraph:
    """Words that nothing foretells, as those of a passage or a question, and words that follow from them."""

    given: str
    follows: str

    @property
    def text(self) -> str:
        """The whole paragraph."""
        return f"{self.given} {self.follows}".strip()


Document = tuple[Paragraph, ...]


def documents(style: CorpusStyle, seed: int) -> Iterator[Document]:
    """Endless documents, about worlds of the split `train` alone."""
    dice = Dice(seed, STREAM)
    while True:
        if dice.chance(style.facts):
            yield tuple(_fact(style, dice) for _ in range(style.sentences))
        else:
            source = TASKS[dice.pick(tuple(TASKS))]
            world = draw_world(source, "train", dice, short=dice.chance(style.short))
            echo = [Paragraph("again", world.text)] if dice.chance(style.echoes) else []
            remark = _answered if source.asks else _remark
            remarks = [remark(source, world, style, dice) for _ in range(style.remarks)]
            yield (Paragraph(world.text, ""), *echo, *remarks)


def vocabulary() -> list[str]:
    """Every word of documents and tasks, sorted."""
    style = CorpusStyle(
        facts=0.3, sentences=8, asked=0.5, short=0.3, echoes=0.3, remarks=3, conclusions=0.3, wrong=0.1
    )
    texts = islice(documents(style, seed=0), 20_000)
    return sorted({word for document in texts for part in document for word in part.text.split()})


def _remark(source: Source, world: World, style: CorpusStyle, dice: Dice) -> Paragraph:
    """A conclusion, or a question with its verdict."""
    if dice.chance(style.conclusions):
        return Paragraph("so", world.claim(ENTAILMENT, dice))
    label = dice.pick(source.labels)
    said = dice.pick(source.labels) if dice.chance(style.wrong) else label
    return _asked(world.claim(label, dice).removesuffix(" ."), said)


def _asked(claim: str, label: int) -> Paragraph:
    return Paragraph(f"is it that {claim} ?", f"{VERDICTS[label]} .")


def _answered(source: Source, world: World, style: CorpusStyle, dice: Dice) -> Paragraph:
    """A question on an event, with its answer where the passage tells it."""
    del style
    assert isinstance(world, Event)
    label = dice.pick(source.labels)
    question = world.claim(label, dice)
    return Paragraph(question, f"{world.answer(question) if label == ENTAILMENT else 'nobody knows'} .")


def _fact(style: CorpusStyle, dice: Dice) -> Paragraph:
    """Something that is true of the whole world, told or asked."""
    about = dice.pick(FACTS)
    if not dice.chance(style.asked):
        return Paragraph("", f"{about(dice, True)} .")
    true = dice.chance(0.5)
    return _asked(about(dice, true), ENTAILMENT if true else CONTRADICTION)


def _kind(dice: Dice, true: bool) -> str:
    name, other = dice.sample(tuple(KINDS), 2)
    kind, said = KINDS[name], KINDS[name if true else other]
    subject = name if dice.chance(0.2) else dice.pick(kind.members)
    if subject != name and dice.chance(0.4):
        return f"{subject} are {name if true else other}"
    if (true or said.family != kind.family) and dice.chance(0.4):
        return f"{subject} are {said.family}"
    return f"{subject} are things with {dice.pick(said.parts)}"


def _action(dice: Dice, true: bool) -> str:
    group, other = dice.sample(tuple(ACTIONS), 2)
    return f"who {dice.pick(ACTIONS[group])} {group if true else other}"


def _place(dice: Dice, true: bool) -> str:
    group, other = dice.sample(tuple(PLACES), 2)
    return f"the {dice.pick(PLACES[group])} is {group if true else other}"


def _number(dice: Dice, true: bool) -> str:
    values, *words = dice.pick(
        ((DAYS, "before", "after"), (NUMBERS, "before", "after"), (NUMBERS, "fewer", "more"))
    )
    one, other = dice.sample(range(len(values)), 2)
    word = words[(one > other) == true]
    return f"{values[one]} is {word} {'than ' if word in ('fewer', 'more') else ''}{values[other]}"


def _reverse(dice: Dice, true: bool) -> str:
    (one, other), words = dice.sample(NAMES, 2), dice.shuffled(dice.pick(COMPARISONS))
    back = words[1] if true else words[0]
    return f"if {one} is {words[0]} than {other} then {other} is {back} than {one}"


FACTS: tuple[Callable[[Dice, bool], str], ...] = (
    _kind,
    _kind,
    _kind,
    _kind,
    _action,
    _place,
    _number,
    _number,
    _reverse,
)
