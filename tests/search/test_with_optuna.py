import pytest

from knots.search import Range, optuna_search

RANGES = [Range("scale", 0.05, 2.0, 0.05), Range("density", 0.05, 1.0, 0.05)]


def hill(options):
    """Highest at scale 0.6, density 0.3."""
    return 100 - 50 * abs(options["scale"] - 0.6) - 30 * abs(options["density"] - 0.3)


def test_the_same_seed_tries_the_same_candidates_and_another_one_does_not():
    first, second = (optuna_search(hill, RANGES, trials=12, seed=3) for _ in range(2))
    assert first == second
    assert optuna_search(hill, RANGES, trials=12, seed=4).tried != first.tried


def test_it_comes_near_the_top_of_a_hill_and_stays_within_the_ranges():
    found = optuna_search(hill, RANGES, trials=60, seed=0)
    assert found.value > 93
    assert found.value == max(value for _, value in found.tried)
    assert found.evaluations <= 60
    for options, _ in found.tried:
        for r in RANGES:
            assert r.low <= options[r.name] <= r.high
            steps = (options[r.name] - r.low) / r.step
            assert steps == pytest.approx(round(steps), abs=1e-6)


def test_a_search_that_is_cut_off_is_gone_on_with_from_its_log_to_the_same_end():
    whole, known, scored = optuna_search(hill, RANGES, trials=15, seed=1), {}, []

    def logged(options, stop=None):
        key = tuple(options.items())
        if key not in known:
            if stop is not None and len(known) == stop:
                raise KeyboardInterrupt
            known[key] = hill(options)
            scored.append(key)
        return known[key]

    with pytest.raises(KeyboardInterrupt):
        optuna_search(lambda o: logged(o, stop=6), RANGES, trials=15, seed=1)
    assert optuna_search(logged, RANGES, trials=15, seed=1) == whole
    assert len(scored) == whole.evaluations


def test_the_edge_is_that_of_the_range():
    found = optuna_search(lambda o: o["scale"], [Range("scale", 0.5, 1.0, 0.5)], trials=8, seed=0)
    assert found.options == {"scale": 1.0}
    assert found.edge == {"scale": "high"}
    assert found.evaluations == 2
