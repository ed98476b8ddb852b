"""Labels found again from the text of a pair alone; shares nothing with the tasks but the lists of words."""

import itertools
import re

from knots.suites.mini_nli.words import ACTIONS, COMPARISONS, DAYS, KINDS, NUMBERS, PLACES

ENTAILMENT, NEUTRAL, CONTRADICTION = 0, 1, 2


def scenes(premise, claim):
    told = {}
    for colour in re.findall(r" in (?!the )(\w+)", premise):
        told["wears"] = colour
    for place in re.findall(r" in the (\w+)", premise):
        told["is"] = place
    for action in premise.split():
        if any(action in group for group in ACTIONS.values()):
            told["does"] = action
    _, person, verb, *rest = claim.removesuffix(" .").split()
    assert f"the {person} " in premise
    found = told.get(verb if verb in ("wears", "is") else "does")
    value = rest[-1] if rest else verb
    if found is None:
        return NEUTRAL
    return ENTAILMENT if found in (value, *ACTIONS.get(value, ()), *PLACES.get(value, ())) else CONTRADICTION


def comparisons(premise, claim):
    """By the order of two people in each respect: the first stands above, or the second."""
    first, words, second = re.fullmatch(r"(\w+) is (.+) than (\w+) \.", premise).groups()
    left, word, right = re.fullmatch(r"(\w+) is (\w+) than (\w+) \.", claim).groups()
    assert {left, right} == {first, second}
    told = words.split()
    above = {pair: first if pair[0] in told else second for pair in COMPARISONS if set(pair) & set(told)}
    (respect,) = [pair for pair in COMPARISONS if word in pair]
    if respect not in above:
        return NEUTRAL
    return ENTAILMENT if above[respect] == (left if word == respect[0] else right) else CONTRADICTION


def _group(words):
    """The kinds that a phrase may be about, and which of three nested groups of them: 0 the smallest."""
    name = words[-1]
    if len(words) == 2:
        return {name}, 0
    for kind, about in KINDS.items():
        if name in about.members:
            return {kind}, 0
    return ({name}, 1) if name in KINDS else ({kind for kind in KINDS if KINDS[kind].family == name}, 2)


def quantifiers(premise, claim):
    given, kind, _, *traits = premise.removesuffix(" .").split()
    quantifier, *group, _, trait = claim.removesuffix(" .").split()
    kinds, size = _group(group)
    assert kind in kinds
    if trait not in traits:
        return NEUTRAL
    # Two things in the smallest group, two more in the kind, two more in its family.
    worlds = list(itertools.product((False, True), repeat=6))
    tests = {"all": all, "some": any, "no": lambda things: not any(things)}
    truths = {tests[quantifier](world[: 2 * size + 2]) for world in worlds if tests[given](world[:4])}
    return NEUTRAL if len(truths) == 2 else ENTAILMENT if truths == {True} else CONTRADICTION


def answers(question, sentence):
    asked, name, thing = re.fullmatch(
        r"(where|when|with whom) does (\w+) \w+ the (\w+) \?", question
    ).groups()
    word = {"where": " in the ", "when": " on ", "with whom": " with "}[asked]
    fits = sentence.startswith(f"{name} ") and f" the {thing} " in sentence and word in sentence
    return ENTAILMENT if fits else CONTRADICTION


def counts(premise, claim):
    def value(words):
        (found,) = [order.index(word) for order in (NUMBERS, DAYS) for word in words if word in order]
        return found

    bound = claim.split()[-2]
    if " brings " in claim:
        (told,) = re.findall(r"brings (\w+)", premise)
    else:
        (told,) = re.findall(r" on (\w+)" if bound in DAYS else r" at (\w+)", premise)
    assert value([told]) != value([bound])
    larger = bool({"after", "more"} & set(claim.split()))
    return ENTAILMENT if (value([told]) > value([bound])) == larger else CONTRADICTION


def facts(premise, claim):
    member, verb, need = claim.removesuffix(" .").split()
    (kind,) = [name for name, about in KINDS.items() if member in about.members]
    subject, told = premise.removesuffix(" .").split(f" {verb} ")
    fits = need in told.split() and subject.split()[-1] in (kind, *KINDS[kind].parts)
    return ENTAILMENT if fits else NEUTRAL


CHECKERS = {
    "scenes": scenes, "comparisons": comparisons, "quantifiers": quantifiers,
    "answers": answers, "counts": counts, "facts": facts,
}  # fmt: skip
