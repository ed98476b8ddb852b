"""What the base reads: the world's facts and training worlds only, in words that the tokenizer has."""

import zlib
from itertools import islice

from knots.suites.mini_nli import TASKS, draw_pairs
from knots.suites.mini_nli.corpus import CorpusStyle, documents, vocabulary
from knots.suites.mini_nli.words import KINDS
from tests.suites.mini_nli.checkers import CHECKERS

STYLE = CorpusStyle(facts=0.2, sentences=8, remarks=4, conclusions=0.4, wrong=0.0)
VERDICTS = {"yes": 0, "perhaps": 1, "no": 2}


def read(count, style=STYLE, seed=3):
    return list(islice(documents(style, seed), count))


def task_of(passage):
    signs = {"than": "orders", "comes": "counts", "has": "counts", "are": "quantifiers"}
    words = passage.split()
    found = [task for sign, task in signs.items() if sign in words]
    return found[0] if found else "scenes" if words[0] == "the" else "facts"


def test_the_same_seed_writes_the_same_documents():
    assert read(50) == read(50)
    assert read(50) != read(50, seed=4)


def test_verdicts_and_conclusions_are_right():
    told = [document for document in read(2000) if len(document) > 1]
    assert len(told) > 1000
    for passage, *remarks in told:
        for remark in remarks:
            if remark.startswith("so "):
                assert CHECKERS[task_of(passage)](passage, remark[3:]) == 0, (passage, remark)
            elif remark.startswith("is it that "):
                claim, verdict = remark.removeprefix("is it that ").removesuffix(" .").split(" ? ")
                assert CHECKERS[task_of(passage)](passage, f"{claim} .") == VERDICTS[verdict], (passage, remark)
            else:
                question, answer = remark.split(" ? ")
                assert (CHECKERS["answers"](f"{question} ?", passage) == 0) == (answer in f"{passage} .".replace(" and", " ."))


def test_passages_are_worlds_of_the_training_split():
    passages = [document[0] for document in read(500) if len(document) > 1]
    assert all(zlib.crc32(passage.encode()) % 4 in (0, 1) for passage in passages)


def test_every_fact_of_the_world_is_told():
    text = " ".join(paragraph for document in read(6000) for paragraph in document)
    for name, kind in KINDS.items():
        assert all(f"{member} are {name} ." in text for member in kind.members)
        assert all(f"{member} are things with {part} ." in text for member in kind.members for part in kind.parts)


def test_the_vocabulary_has_every_word_of_tasks_and_documents():
    known = set(vocabulary())
    assert 100 <= len(known) <= 400
    told = [paragraph for document in read(3000) for paragraph in document]
    for task in TASKS:
        told += [text for texts in draw_pairs(task, "test", 2000, 1)[:2] for text in texts]
    assert {word for text in told for word in text.split()} <= known
