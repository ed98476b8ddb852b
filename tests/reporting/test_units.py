import pytest

from knots.reporting.units import amount, size_of, span


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0521, "0.052 s"), (1.34, "1.3 s"), (12.3, "12 s"), (130.4, "130 s")]
)
def test_spans(seconds: float, words: str):
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (12_340_000, "12.3 MB"), (6 * 10**11, "600 GB")],
)
def test_sizes(count: int, words: str):
    assert size_of(count) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0"), (98_304, "98,304"), (1_179_648, "1.18 M"), (28_311_552, "28.3 M"), (999_600_000, "1000 M")],
)
def test_amounts(count: int, words: str):
    assert amount(count) == words
