"""Comparisons against the statistics of the same items, and what is said of them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from knots.errors import KnotsError
from knots.pipelines.compare import ComparePlan, run_compare
from knots.pipelines.compare.views import compared_sheet, verdict

TASKS = {"a": 300, "b": 80}


def predictions(shares: dict[str, float], seed: int) -> pd.DataFrame:
    """Right with the given probability; the labels are always the same."""
    generator, tables = np.random.default_rng(seed), []
    for task, n in TASKS.items():
        labels = np.random.default_rng(n).integers(0, 7, size=n)
        right = generator.random(n) < shares[task]
        rows = {"task": task, "item": np.arange(n), "label": labels, "prediction": labels + ~right}
        tables.append(pd.DataFrame({**rows, "joint_rank": np.where(right, 1, 5)}))
    return pd.concat(tables)


@pytest.fixture
def compared(tmp_path: Path):
    """Compares what two tables hold; a third is the reference."""

    def compare(first: pd.DataFrame, second: pd.DataFrame, reference: pd.DataFrame | None = None, **options):
        for name, table in (("first", first), ("second", second), ("reference", reference)):
            if table is not None:
                table.to_parquet(tmp_path / f"{name}.parquet")
        if reference is not None:
            options["reference"] = f"{tmp_path}/reference.parquet"
        places = f"{tmp_path}/first.parquet", f"{tmp_path}/second.parquet"
        return run_compare(ComparePlan(*places, tmp_path, **options))

    return compare


WORSE, BETTER = predictions({"a": 0.6, "b": 0.7}, 0), predictions({"a": 0.85, "b": 0.7}, 1)
CEILING = predictions({"a": 0.95, "b": 0.9}, 2)


def share(table: pd.DataFrame, task: str) -> float:
    rows = table[table["task"] == task]
    return float((rows["label"] == rows["prediction"]).mean())


def test_tasks_average_and_tests_are_those_of_the_items(compared):
    found = compared(WORSE, BETTER, CEILING)
    gaps = []
    for task, row in found.tasks.items():
        ceiling = share(CEILING, task)
        assert row.first.value == pytest.approx(share(WORSE, task) / ceiling)
        assert row.second.value == pytest.approx(share(BETTER, task) / ceiling)
        gaps.append((share(BETTER, task) - share(WORSE, task)) / ceiling)
        assert row.difference.value == pytest.approx(gaps[-1])
        first, second = (t[t["task"] == task].eval("label == prediction") for t in (WORSE, BETTER))
        only = int((first & ~second).sum()), int((second & ~first).sum())
        assert (row.counts.first, row.counts.second) == only
        assert row.p == pytest.approx(binomtest(only[0], sum(only)).pvalue)
    assert found.whole.difference.value == pytest.approx(np.mean(gaps))
    a, b = found.tasks.values()
    assert a.adjusted == pytest.approx(min(1, 2 * a.p))
    assert b.adjusted == pytest.approx(max(b.p, 2 * a.p))
    assert found.normalized.endswith("reference.parquet")


def test_the_order_of_rows_does_not_matter(compared):
    shuffled = BETTER.sample(frac=1, random_state=0)
    assert compared(WORSE, BETTER) == compared(WORSE, shuffled)


def test_joint_hits_are_pooled(compared):
    found = compared(WORSE, BETTER, hits=3)
    sheet = compared_sheet(found)
    assert sheet.rows[-1].label == "all items"
    pooled = (BETTER["joint_rank"] <= 3).mean() - (WORSE["joint_rank"] <= 3).mean()
    assert found.whole.difference.value == pytest.approx(pooled)
    only = found.whole.counts.first, found.whole.counts.second
    assert found.whole.p == pytest.approx(binomtest(only[0], sum(only)).pvalue)
    assert found.whole.first.value == pytest.approx((WORSE["joint_rank"] <= 3).mean())
    assert "joint hits@3" in sheet.title


def test_a_verdict_is_a_sentence(compared):
    said = verdict(compared(WORSE, BETTER))
    assert said.startswith("Verdict: B beats A, B - A = +")
    assert said.endswith("B is better on a.")
    assert verdict(compared(BETTER, WORSE)).startswith("Verdict: A beats B, B - A = -")
    again = predictions({"a": 0.6, "b": 0.7}, 5)
    undecided = verdict(compared(WORSE, again))
    assert "undecided" in undecided
    assert "points four times in five" in undecided
    assert undecided.endswith("No single task tells them apart.")


def test_the_sheet_shows_everything(compared):
    found = compared(WORSE, BETTER)
    sheet = compared_sheet(found)
    assert sheet.columns == ("A", "B", "B - A", "only A", "only B", "p", "p, Holm")
    assert [row.label for row in sheet.rows] == ["a", "b", "average"]
    first, _, gap, only, *_, holm = sheet.rows[0].cells
    assert first.ours == pytest.approx(100 * share(WORSE, "a"))
    assert (gap.text[0], gap.star) == ("+", True)
    assert gap.interval[0] < gap.ours < gap.interval[1]
    assert only.text == str(found.tasks["a"].counts.first)
    assert holm.text == "<0.0001"
    notes = " ".join(sheet.notes)
    assert "P(B beats A) = 1.000" in notes
    assert "minimal detectable difference of the average: " in notes
    assert sheet.notes[-1].startswith("Verdict: ")


def test_a_reference_that_gets_nothing_right_gives_no_verdict(compared):
    nothing = CEILING.assign(prediction=-1)
    found = compared(WORSE, BETTER, nothing)
    assert "Verdict: none" in compared_sheet(found).notes[-1]
    assert found.tasks["a"].p < 0.05


OTHER = BETTER.assign(label=BETTER["label"].where(BETTER["item"] != 7, 0))


@pytest.mark.parametrize(("second", "words"), [
    (BETTER[BETTER["task"] == "a"], r"second\.parquet has no task 'b', which .*first\.parquet has"),
    (BETTER[BETTER["item"] != 7], r"task 'a': '.*second\.parquet' has 299 items and '.*first.parquet' has 3"),
    (OTHER, r"second\.parquet' and '.*first\.parquet' have other labels for \d items, as 7"),
])  # fmt: skip
def test_other_tasks_items_or_labels_are_refused(compared, second: pd.DataFrame, words: str):
    with pytest.raises(KnotsError, match=words):
        compared(WORSE, second)


def test_a_reference_of_other_items_or_of_fewer_tasks_is_refused(compared):
    with pytest.raises(KnotsError, match="reference has no predictions of b"):
        compared(WORSE, BETTER, CEILING[CEILING["task"] == "a"])
    with pytest.raises(KnotsError, match="'reference' has 299 items"):
        compared(WORSE, BETTER, CEILING[CEILING["item"] != 7])
    with pytest.raises(KnotsError, match="joint hits are not normalized"):
        compared(WORSE, BETTER, CEILING, hits=1)


def test_one_set_twice_is_refused(tmp_path: Path):
    WORSE.to_parquet(tmp_path / "a.parquet")
    place = str(tmp_path / "a.parquet")
    with pytest.raises(KnotsError, match="are the same; two sets of predictions are needed"):
        run_compare(ComparePlan(place, place, tmp_path))
