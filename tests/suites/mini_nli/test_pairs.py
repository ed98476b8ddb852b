"""Pairs of the six generated tasks: right labels, the same ones everywhere, splits apart, no short cut."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from knots.errors import KnotsError
from knots.suites.mini_nli import SHARE, TASKS, draw_pairs
from knots.suites.mini_nli.words import KINDS
from tests.suites.mini_nli.checkers import CHECKERS

every_task = pytest.mark.parametrize("task", TASKS)

DIGEST = """
import hashlib, json
from knots.suites.mini_nli import TASKS, draw_pairs
drawn = [[*map(list, draw_pairs(task, "test", 200, 0))] for task in TASKS]
print(hashlib.sha256(json.dumps(drawn, default=int).encode()).hexdigest())
"""
VERSION_1 = "a684d1f85f612a1544c0b275746f77443de64370a7914bbe513cea713ae1edc5"
"""Of the pairs that `DIGEST` draws: other ones need another `knots.suites.mini_nli.VERSION`."""


def test_another_process_draws_the_same_pairs_and_so_did_the_first_version():
    done = subprocess.run([sys.executable, "-c", DIGEST], check=True, capture_output=True, text=True)
    drawn = [[*map(list, draw_pairs(task, "test", 200, 0))] for task in TASKS]
    assert (
        done.stdout.strip()
        == hashlib.sha256(json.dumps(drawn, default=int).encode()).hexdigest()
        == VERSION_1
    )


@every_task
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), split=st.sampled_from(list(SHARE)))
def test_labels_are_what_the_words_say(task, seed, split):
    for first, second, label in zip(*draw_pairs(task, split, 60, seed), strict=True):
        assert CHECKERS[task](first, second) == label, (first, second)


@every_task
def test_labels_are_those_of_the_task_about_equally_often(task):
    labels = draw_pairs(task, "test", 4000, 0)[2]
    assert labels.dtype == np.int64
    assert set(labels) == set(TASKS[task].labels)
    assert np.bincount(labels).max() / len(labels) < 1 / len(TASKS[task].labels) + 0.03


@every_task
def test_splits_share_no_world(task):
    told = {}
    for split in SHARE:
        firsts, seconds, _ = draw_pairs(task, split, 4000, 0)
        told[split] = set(seconds if TASKS[task].asks else firsts)
    assert not told["train"] & (told["validation"] | told["test"])
    assert not told["validation"] & told["test"]


@every_task
def test_pairs_hardly_ever_repeat(task):
    firsts, seconds, _ = draw_pairs(task, "test", 4000, 0)
    assert len(set(zip(firsts, seconds, strict=True))) > 3500


@every_task
def test_another_seed_draws_other_pairs(task):
    assert draw_pairs(task, "test", 50, 0)[0] != draw_pairs(task, "test", 50, 1)[0]


@every_task
def test_words_alone_do_not_tell_the_label(task):
    """Logistic regression on the words of the second sentence, and on the words of both."""
    (firsts, seconds, labels), (test_firsts, test_seconds, truth) = (
        draw_pairs(task, "train", 4000, 0),
        draw_pairs(task, "test", 2000, 0),
    )
    for texts, test_texts in (
        (seconds, test_seconds),
        (both(firsts, seconds), both(test_firsts, test_seconds)),
    ):
        words = CountVectorizer(token_pattern=r"\S+")
        model = LogisticRegression(max_iter=300).fit(words.fit_transform(texts), labels)
        assert model.score(words.transform(test_texts), truth) < 0.6


def both(firsts, seconds):
    marked = [" ".join(f"2:{word}" for word in second.split()) for second in seconds]
    return [f"{first} {second}" for first, second in zip(firsts, marked, strict=True)]


def test_no_word_stands_for_two_kinds():
    names = [name for kind in KINDS.values() for name in (*kind.members, *kind.parts)] + list(KINDS)
    assert len(set(names)) == len(names)


def test_no_pairs_at_all():
    assert draw_pairs("scenes", "test", 0, 0)[:2] == ([], [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scnes", "test", 1, 0), "'scnes'; did you mean 'scenes'"),
        (("scenes", "dev", 1, 0), "unknown split 'dev'"),
        (("scenes", "test", -1, 0), "scenes: n -1 and seed 0 must not be negative"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(KnotsError, match=message):
        draw_pairs(*arguments)
