"""Labels found again from the words alone, by enumeration of what is possible; shares nothing with the tasks but words."""

import itertools
import re

from knots.suites.mini_nli.words import ACTIONS, COMPARISONS, DAYS, KINDS, NUMBERS, PLACES

ENTAILMENT, NEUTRAL, CONTRADICTION = 0, 1, 2


def decide(truths):
    """The label of a claim from whether it is true in every possible world."""
    truths = set(truths)
    assert truths, "the first sentence contradicts itself"
    return NEUTRAL if len(truths) == 2 else ENTAILMENT if truths == {True} else CONTRADICTION


def scenes(premise, claim):
    persons = {}
    for clause in re.split(r" and | , ", premise.removesuffix(" .")):
        words = clause.split()
        facets = persons.setdefault(words[1], {})
        for colour in re.findall(r" in (?!the )(\w+)", clause):
            facets["wears"] = colour
        for place in re.findall(r" in the (\w+)", clause):
            facets["place"] = place
        for word in words:
            if any(word in group for group in ACTIONS.values()):
                facets["does"] = word
    _, person, verb, *rest = claim.removesuffix(" .").split()
    facet = {"wears": "wears", "is": "place"}.get(verb, "does")
    value = rest[-1] if rest else verb
    told = persons[person].get(facet)
    if told is None:
        return NEUTRAL
    return ENTAILMENT if told in (value, *ACTIONS.get(value, ()), *PLACES.get(value, ())) else CONTRADICTION


def _comparison(sentence):
    left, word, right = re.fullmatch(r"(\w+) is (\w+) than (\w+)", sentence).groups()
    (pair,) = [pair for pair in COMPARISONS if word in pair]
    return pair, (left, right) if word == pair[0] else (right, left)


def orders(premise, claim):
    told = [_comparison(sentence) for sentence in premise.removesuffix(" .").split(" . ")]
    respect, (high, low) = _comparison(claim.removesuffix(" ."))
    if respect != told[0][0]:
        return NEUTRAL
    people = {name for _, pair in told for name in pair} | {high, low}
    rankings = [list(order) for order in itertools.permutations(people)]
    possible = [r for r in rankings if all(r.index(a) < r.index(b) for _, (a, b) in told)]
    return decide(r.index(high) < r.index(low) for r in possible)


def _group(words):
    """The kind that a phrase is about, and which of three nested groups of it: 0 the smallest."""
    name = words[-1]
    if len(words) == 2:
        return {name}, 0
    for kind, about in KINDS.items():
        if name in about.members:
            return {kind}, 0
    return ({name}, 1) if name in KINDS else ({kind for kind in KINDS if KINDS[kind].family == name}, 2)


def quantifiers(premise, claim):
    told = [sentence.split() for sentence in premise.removesuffix(" .").split(" and ")]
    quantifier, *group, _, trait = claim.removesuffix(" .").split()
    kinds, size = _group(group)
    for given, *about, _, told_trait in told:
        (kind,), told_size = _group(about)
        if kind in kinds and told_trait == trait:
            break
    else:
        return NEUTRAL
    # Two things in the smallest group, two more in the kind, two more in its family.
    worlds = list(itertools.product((False, True), repeat=6))
    tests = {"all": all, "some": any, "no": lambda things: not any(things)}
    possible = [world for world in worlds if tests[given](world[: 2 * told_size + 2])]
    return decide(tests[quantifier](world[: 2 * size + 2]) for world in possible)


def answers(question, sentence):
    asked, name, thing = re.fullmatch(r"(where|when|with whom) does (\w+) \w+ the (\w+) \?", question).groups()
    (clause,) = [c for c in sentence.removesuffix(" .").split(" and ") if c.startswith(f"{name} ")]
    assert f" the {thing} " in clause
    word = {"where": "in", "when": "on", "with whom": "with"}[asked]
    return ENTAILMENT if f" {word} " in clause else CONTRADICTION


def counts(premise, claim):
    def value(words):
        (found,) = [order.index(word) for order in (NUMBERS, DAYS) for word in words if word in order]
        return found

    told = {clause.split()[0]: value(clause.split()) for clause in premise.removesuffix(" .").split(" , ")}
    name, _, word, *_, against = claim.removesuffix(" .").split()
    bound = told[against] if against in told else value([against])
    assert told[name] != bound
    return ENTAILMENT if (told[name] > bound) == (word in ("more", "after")) else CONTRADICTION


def facts(premise, claim):
    member, *rest = claim.removesuffix(" .").split()
    (kind,) = [name for name, about in KINDS.items() if member in about.members]
    for rule in premise.removesuffix(" .").split(" and "):
        *subject, verb, need = rule.split()
        if [verb, need] == rest and subject[-1] in (kind, *KINDS[kind].parts):
            return ENTAILMENT
    return NEUTRAL


CHECKERS = {
    "scenes": scenes, "orders": orders, "quantifiers": quantifiers,
    "answers": answers, "counts": counts, "facts": facts,
}  # fmt: skip
