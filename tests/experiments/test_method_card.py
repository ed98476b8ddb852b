"""`experiments/method_card.py`, from the command line to the card."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.experiments.conftest import TASKS, Finished

Command = Callable[..., Finished]

PROBES = [
    *("one task alone", "another order", "other factors", "all times 2", "one times 2"),
    *("with a zero adapter", "with one of size 1e-6", "all listed twice", "the same call again"),
    *("time", "peak memory", "output rank", "parameters"),
]


@pytest.fixture
def card(command: Command, tiny: Path, tmp_path: Path) -> Callable[..., dict[str, dict[str, str]]]:
    """Makes a card over the tiny adapters and reads it: probe -> line."""

    def make(*arguments: str) -> dict[str, dict[str, str]]:
        done = command("method_card", [*place(tiny), f"output={tmp_path}/card", *arguments])
        assert (done.code, done.err) == (0, "")
        values = json.loads((tmp_path / "card" / "method_card.json").read_text())
        lines = {line["probe"]: line for line in values["lines"]}
        for line in lines.values():
            assert line["probe"] in done.out
            assert (
                f"| {line['probe']} | {line['measured']} |" in (tmp_path / "card/method_card.md").read_text()
            )
        assert max(len(line) for line in done.out.splitlines() if not line.startswith("Card: ")) <= 80
        return lines

    return make


def place(tiny: Path) -> list[str]:
    return [
        f"model.base={tiny}/base",
        f"adapters={tiny}/adapters/{{task}}",
        f"paths.cache_dir={tiny}/cache",
        "trainer=cpu",
        *(f"suite.tasks.{task}.sizes.train=24" for task in TASKS),
    ]


def number(line: dict[str, str]) -> float:
    return float(line["measured"])


def test_knots_ties_is_what_its_card_says(card):
    lines = card()
    assert list(lines) == PROBES
    assert number(lines["one task alone"]) > 0.05  # a fifth of the entries is kept
    for still in ("another order", "other factors", "all times 2", "the same call again"):
        assert number(lines[still]) < 1e-3, still
    assert number(lines["one times 2"]) > 0.05
    assert lines["with a zero adapter"]["measured"] == "refused"
    assert "'zero' is a zero update" in lines["with a zero adapter"]["said"]
    assert lines["other factors"]["said"] == "(B G, G^-1 A) in place of (B, A) gives the same merge."
    assert lines["time"]["measured"].endswith(" s")
    assert "on CPU" in lines["time"]["said"]


def test_rule_and_space_are_short_for_those_of_the_merge(card):
    lines = card("rule=sum", "space=full")
    assert number(lines["one task alone"]) < 1e-5
    assert lines["all listed twice"]["measured"] == "1"
    assert "as in a sum" in lines["all listed twice"]["said"]
    assert number(lines["with one of size 1e-6"]) < 1e-3


def test_core_ties_depends_on_the_factors(card):
    lines = card("merge=core_ties")
    assert number(lines["other factors"]) > 0.05
    assert "how an update is split" in lines["other factors"]["said"]


def test_a_rule_that_looks_at_data_has_a_card(card):
    lines = card("merge=regmean", "merge.calibration.examples=8")
    assert number(lines["another order"]) < 1e-3
    assert "refused" not in {lines[name]["measured"] for name in PROBES if "adapter" not in name}


def test_a_rule_of_one_s_own_and_its_errors(card, tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def first(coords):\n"
        "    return coords[0]\n"
        "def pair(coords):\n"
        "    return coords[0] / (8 - len(coords)) if len(coords) > 8 else coords[0] + coords[7]\n"
        "def noise(coords):\n"
        "    return torch.randn(coords.shape[1:])\n"
    )
    lines = card(f"rule={tmp_path}/mine.py:first", "space=full")
    assert "depends on the order" in lines["another order"]["said"]
    assert number(lines["all listed twice"]) == 0
    assert lines["with one of size 1e-6"]["measured"] == "0"
    lines = card(f"rule={tmp_path}/mine.py:pair", "space=full")
    assert lines["one task alone"]["measured"] == "error"
    assert lines["one task alone"]["said"].startswith("IndexError: index 7")
    assert number(lines["all times 2"]) == 0
    assert "cannot be repeated" in card(f"rule={tmp_path}/mine.py:noise")["the same call again"]["said"]


def test_a_rule_that_always_fails_says_so_in_every_line(card, tmp_path: Path):
    (tmp_path / "bad.py").write_text("def bad(coords):\n    raise RuntimeError('no')\n")
    lines = card(f"rule={tmp_path}/bad.py:bad")
    assert list(lines) == [*PROBES[:-4], "costs"]
    assert {line["measured"] for line in lines.values()} <= {"error", "refused"}
    assert lines["costs"]["said"] == "RuntimeError: no"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rule=tise"], "unknown rule 'tise'; did you mean 'ties'"),
        (["space=knot"], "unknown space 'knot'; did you mean 'knots'"),
        (["merge=ensemble"], "ensemble merges nothing, so there is no card of it"),
        (["rule=regmean"], "rule 'regmean' looks at data: use merge=regmean"),
        (["rule=cart"], "rule 'cart' needs pruning_rank, cart_scale"),
        (["rule=nowhere.py:mine"], "no such file"),
        (["output=3"], "output=3; a text is needed"),
    ],
)
def test_a_mistake_is_one_message(command: Command, tiny: Path, arguments: list[str], message: str):
    done = command("method_card", [*place(tiny), *arguments])
    assert (done.code, done.err.count("error: ")) == (2, 1), done.err
    assert message in done.err


def test_help_names_what_can_be_asked(command: Command):
    done = command("method_card", ["--help"])
    assert "rule=mine.py:my_rule" in done.out
    assert "knots_ties_unscaled" in done.out
