"""Sign conflicts against loops over every entry."""

import itertools
import math

import pytest
import torch

from knots.analysis.signs import SignCounts, sign_conflicts
from knots.errors import KnotsError
from knots.spaces import SPACES
from knots.updates import Dense, LowRank
from tests.random_adapters import random_adapters

CUTOFF = 1e-5


def slow(entries: torch.Tensor) -> tuple[float, list[list[float]], float]:
    """Conflict, pairwise and cancelled of entries [T, n], one at a time."""
    shared = conflicting = 0
    mass = net = 0.0
    for column in entries.T.tolist():
        signs = {x > 0 for x in column if x}
        if sum(1 for x in column if x) >= 2:
            shared += 1
            conflicting += len(signs) == 2
        mass += sum(map(abs, column))
        net += abs(math.fsum(column))
    pairs = []
    for a in entries.tolist():
        both = [[(x, y) for x, y in zip(a, b, strict=True) if x and y] for b in entries.tolist()]
        pairs.append([sum(x * y < 0 for x, y in found) / len(found) for found in both])
    return conflicting / shared, pairs, 1 - net / mass


def updates_of(dense: bool) -> dict:
    adapters = random_adapters(3)
    found = {m: [a.updates[m] for a in adapters] for m in adapters[0].updates}
    return {m: [Dense(u.dense()) for u in parts] for m, parts in found.items()} if dense else found


@pytest.mark.parametrize("space", ["full", "knots", "knots_rows"])
@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.parametrize("dense", [False, True])
def test_counts_are_those_of_a_loop_over_all_entries(space: str, density: float, dense: bool):
    updates = updates_of(dense)
    found = sign_conflicts(updates, space=space, cutoff=CUTOFF, density=density)
    parts = {m: SPACES[space](us, CUTOFF).read().flatten(1) for m, us in updates.items()}
    # Places that exact arithmetic would leave empty.
    clean = {m: torch.where(x.abs() > 1e-5, x, 0.0) for m, x in parts.items()}
    whole = torch.cat(list(clean.values()), dim=1)
    assert found.entries == whole.shape[1]
    kept = torch.zeros_like(whole)
    for row, out in zip(whole, kept, strict=True):
        largest = row.abs().topk(min(len(row), int(len(row) * density) + 1)).indices
        out[largest] = row[largest]
    wanted = {"every": (found.every, whole), "trimmed": (found.trimmed, kept)}
    for counts, entries in (*wanted.values(), *((found.modules[m], x) for m, x in clean.items())):
        conflict, pairs, cancelled = slow(entries)
        assert counts.conflict == pytest.approx(conflict)
        assert counts.cancelled == pytest.approx(cancelled, abs=1e-6)
        torch.testing.assert_close(counts.pairwise, torch.tensor(pairs).double(), rtol=1e-6, atol=0)


def test_random_signs_conflict_as_chance_has_it(generator: torch.Generator):
    counts = SignCounts(8)
    for _ in range(4):
        counts.add(torch.randn(8, 20_000, generator=generator))
    assert counts.conflict == pytest.approx(1 - 2**-7, abs=1e-3)
    for i, j in itertools.combinations(range(8), 2):
        assert float(counts.pairwise[i, j]) == pytest.approx(0.5, abs=0.01)
    assert counts.pairwise.diagonal().tolist() == [0.0] * 8


def test_equal_updates_agree_everywhere():
    update = LowRank(torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.ones(2, 5))
    for space in ("full", "knots", "knots_rows"):
        found = sign_conflicts({"a": [update, update]}, space=space, cutoff=CUTOFF, density=0.5)
        assert (found.every.conflict, found.trimmed.conflict) == (0, 0)
        assert found.every.cancelled == pytest.approx(0, abs=1e-9)
        opposed = {"a": [update, update.scaled(-1.0)]}
        found = sign_conflicts(opposed, space=space, cutoff=CUTOFF, density=1.0)
        assert (found.every.conflict, found.every.cancelled) == (1, pytest.approx(1))


def test_tasks_without_common_entries_have_no_rate():
    eye = torch.eye(4)
    apart = {"a": [LowRank(eye[:, :1], eye[:1]), LowRank(eye[:, 1:2], eye[1:2])]}
    found = sign_conflicts(apart, space="full", cutoff=CUTOFF, density=1.0).every
    assert math.isnan(found.conflict)
    assert math.isnan(float(found.pairwise[0, 1]))
    assert found.cancelled == 0


def test_mistakes_are_named():
    with pytest.raises(KnotsError, match="unknown space 'knot'; did you mean 'knots'"):
        sign_conflicts(updates_of(False), space="knot", cutoff=CUTOFF, density=0.5)
    with pytest.raises(KnotsError, match=r"density=0\.0; allowed"):
        sign_conflicts(updates_of(False), space="full", cutoff=CUTOFF, density=0.0)
    with pytest.raises(KnotsError, match="no updates"):
        sign_conflicts({}, space="full", cutoff=CUTOFF, density=0.5)
    with pytest.raises(KnotsError, match="are dense"):
        sign_conflicts(updates_of(True), space="core", cutoff=CUTOFF, density=0.5)
