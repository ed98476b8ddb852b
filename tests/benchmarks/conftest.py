"""The tiny CLIP with its small splits, as entry points have them in tests; how a mistake ends a script."""

from collections.abc import Callable, Sequence

import pytest

from tests.experiments.conftest import small as small
from tests.experiments.conftest import tiny as tiny

Refused = Callable[[Callable[[Sequence[str]], None], str], str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a script with a wrong word, and gives the one line that it ends with."""

    def refused(main: Callable[[Sequence[str]], None], word: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main([word])
        assert stop.value.code == 2
        told = capsys.readouterr()
        assert (told.out, told.err.count("\n")) == ("", 1)
        return told.err

    return refused
