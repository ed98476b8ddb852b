import pytest
import torch

import knots
from knots import KnotsError
from knots.rules import resolve_rule
from tests.random_adapters import random_adapters, relative_error

RULE = """
import torch

def largest(coords, *, power=1.0):
    index = coords.abs().argmax(dim=0, keepdim=True)
    return coords.gather(0, index)[0] * power

def transposed(coords):
    return coords.sum(0).T
"""


@pytest.fixture
def rule_file(tmp_path):
    file = tmp_path / "my_rule.py"
    file.write_text(RULE)
    return file


def test_a_rule_in_a_users_file_is_used_by_name(rule_file):
    adapters = random_adapters(0)
    merged = knots.merge(adapters, space="knots", rule=f"{rule_file}:largest", scale=2.0, power=0.5)
    direct = knots.merge(adapters, space="knots", rule=resolve_rule(f"{rule_file}:largest"), scale=1.0)
    assert relative_error(merged, direct) < 1e-6
    assert merged.source.startswith("knots x ")


def test_a_function_equal_to_sum_gives_task_arithmetic():
    adapters = random_adapters(0)
    merged = knots.merge(adapters, space="full", rule=lambda coords: coords.sum(0), scale=0.3)
    assert relative_error(merged, knots.merge(adapters, space="full", rule="sum", scale=0.3)) < 1e-6


def test_an_option_that_the_function_does_not_take_is_an_error(rule_file):
    with pytest.raises(
        KnotsError, match=r"'largest' does not take the option density=0.5 \(its options: power\)"
    ):
        knots.merge(random_adapters(0), space="full", rule=f"{rule_file}:largest", scale=1.0, density=0.5)


def test_a_result_of_another_shape_is_an_error(rule_file):
    with pytest.raises(KnotsError, match=r"'transposed' returned \(10, 12\) for module 'layers.0.q_proj'"):
        knots.merge(random_adapters(0), space="full", rule=f"{rule_file}:transposed", scale=1.0)


def test_references_that_lead_nowhere_say_so(rule_file, tmp_path):
    with pytest.raises(KnotsError, match="no such file"):
        resolve_rule(f"{tmp_path}/absent.py:f")
    with pytest.raises(KnotsError, match="did you mean 'largest'"):
        resolve_rule(f"{rule_file}:larges")
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0")
    with pytest.raises(KnotsError, match="does not run: ZeroDivisionError"):
        resolve_rule(f"{broken}:f")


def test_the_input_is_protected_from_no_one_but_the_merge_is_repeatable(rule_file):
    adapters = random_adapters(1)
    first, second = (
        knots.merge(adapters, space="knots", rule=f"{rule_file}:largest", scale=1.0) for _ in range(2)
    )
    assert all(torch.equal(first.updates[m].dense(), second.updates[m].dense()) for m in first.updates)
