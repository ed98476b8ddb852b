"""The pretraining pictures: decided by their seed, apart from the benchmark, captions as noisy as asked."""

import numpy as np
import pytest

from knots.suites.miniature import TASKS
from knots.suites.miniature.glyphs import FONTS, WEB_FONTS
from knots.suites.miniature.web import CHUNK, KINDS, WebStyle, captions, draw_web

CLEAR = WebStyle(strength=dict.fromkeys(KINDS, 0.5), coarse=0.0, wrong=0.0)


def test_the_number_of_processes_changes_nothing():
    images, said = draw_web(CHUNK + 7, 0, CLEAR, workers=1)
    again, same = draw_web(CHUNK + 7, 0, CLEAR, workers=2)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(said, same)
    assert images.shape == (CHUNK + 7, 32, 32, 3)


def test_every_class_and_every_kind_can_be_said():
    said = captions()
    assert len(said.texts) == sum(len(kind.classes) for kind in KINDS.values()) + len(KINDS)
    assert said.fine.sum() == len(said.texts) - len(KINDS)
    assert said.texts[0][0] == "the number 0"


@pytest.mark.parametrize(("coarse", "wrong"), [(0.0, 0.0), (0.3, 0.0), (0.2, 0.5)])
def test_captions_are_as_noisy_as_asked(coarse, wrong):
    _, said = draw_web(2000, 0, WebStyle(CLEAR.strength, coarse, wrong), workers=1)
    fine = captions().fine[said]
    assert (~fine).mean() == pytest.approx(coarse, abs=0.04)


def test_the_web_shows_every_class_of_the_benchmark():
    for name, kind in KINDS.items():
        assert set(TASKS[name].classes) <= set(kind.classes)


def test_no_font_is_in_both_worlds():
    assert not set(FONTS) & set(WEB_FONTS)
