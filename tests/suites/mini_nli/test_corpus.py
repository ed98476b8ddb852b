"""What the base reads: the world's facts and training worlds only, in words that the tokenizer has."""

import zlib
from itertools import islice

from knots.suites.mini_nli import TASKS, draw_pairs
from knots.suites.mini_nli.corpus import CorpusStyle, documents, vocabulary
from knots.suites.mini_nli.words import KINDS, PEOPLE
from tests.suites.mini_nli.checkers import CHECKERS

STYLE = CorpusStyle(
    facts=0.3, sentences=8, asked=0.5, short=0.4, echoes=0.3, remarks=4, conclusions=0.4, wrong=0.0
)
VERDICTS = {"yes .": 0, "perhaps .": 1, "no .": 2}


def read(count, seed=3):
    return list(islice(documents(STYLE, seed), count))


def passages(documents):
    return [document for document in documents if not document[0].follows]


def task_of(passage):
    signs = {"than": "comparisons", "comes": "counts", "brings": "counts", "are": "quantifiers"}
    words = passage.split()
    found = [task for sign, task in signs.items() if sign in words]
    return found[0] if found else "scenes" if set(PEOPLE) & set(words) else "facts"


def test_the_same_seed_writes_the_same_documents():
    assert read(50) == read(50)
    assert read(50) != read(50, seed=4)


def test_what_follows_from_a_passage_is_right():
    told = passages(read(2000))
    assert len(told) > 1000
    for passage, *remarks in told:
        for remark in remarks:
            check_remark(passage.text, remark)


def check_remark(passage, remark):
    where = (passage, remark)
    if remark.given == "again":
        assert remark.follows == passage
    elif remark.given == "so":
        assert CHECKERS[task_of(passage)](passage, remark.follows) == 0, where
    elif remark.given.startswith("is it that "):
        claim = remark.given.removeprefix("is it that ").removesuffix(" ?")
        assert CHECKERS[task_of(passage)](passage, f"{claim} .") == VERDICTS[remark.follows], where
    else:
        answered = CHECKERS["answers"](remark.given, passage) == 0
        assert answered == (remark.follows.removesuffix(" .") in passage), where


def test_passages_are_worlds_of_the_training_split():
    told = [document[0].text for document in passages(read(500))]
    assert all(zlib.crc32(passage.encode()) % 4 in (0, 1) for passage in told)


def test_facts_of_the_world_are_told_as_they_are():
    """Each is told, and asked with the right verdict."""
    facts = [part for document in read(6000) if document[0].follows for part in document]
    told = {part.text for part in facts if not part.given}
    for name, kind in KINDS.items():
        assert all(f"{member} are {name} ." in told for member in kind.members)
        assert all(
            f"{member} are things with {part} ." in told for member in kind.members for part in kind.parts
        )
    asked = [part for part in facts if part.given]
    for part in asked:
        assert (part.given.removeprefix("is it that ").replace("?", ".") in told) <= (
            part.follows == "yes ."
        ), part
    assert 0.4 < sum(part.follows == "yes ." for part in asked) / len(asked) < 0.6


def test_the_vocabulary_has_every_word_of_tasks_and_documents():
    known = set(vocabulary())
    assert 100 <= len(known) <= 400
    told = [part.text for document in read(3000) for part in document]
    for task in TASKS:
        told += [text for texts in draw_pairs(task, "test", 2000, 1)[:2] for text in texts]
    assert {word for text in told for word in text.split()} <= known
