"""An output folder as finished runs, searches, analyses and experiments leave it, with made-up numbers."""

from pathlib import Path
from typing import Any

from knots.drafts import writing
from knots.reporting.charts import bars, heatmaps, search_curves
from knots.reporting.comparison import Value
from knots.reporting.figures import save_figure
from knots.reporting.sheets import Cell, Row, Sheet
from knots.runs import run_id
from tests.reporting.conftest import TASKS, make_metrics

METHODS = ("task_arithmetic", "ties", "knots_ties", "dare_ties")


def finish(output_dir: Path, entry: str, metrics: dict[str, Any], **identity: Any) -> Path:
    """A finished folder, made by the frame of all runs."""
    name = run_id(identity)
    config = {"merge": metrics.get("merge"), "suite": {"classes": [f"class {i}" for i in range(40)]}}
    with writing(output_dir / entry, name, config=config, identity=identity) as draft:
        if metrics.get("record"):
            _draw(draft.folder, metrics)
        draft.metrics.update(metrics)
    return output_dir / entry / name


def _draw(folder: Path, metrics: dict[str, Any]) -> None:
    """The figures that the record names."""
    drawn = {
        "experiment": lambda: bars({"ties": [Value(50.0, (48.0, 53.0))]}, ["x"], title="T", ylabel="%"),
        "search": lambda: search_curves(metrics["trials"], title="S", ylabel="%", chosen=metrics["chosen"]),
        "analysis": lambda: heatmaps({"LoRA": [[1.0]]}, ["a"], title="A", limits=(0, 1), caption="CKA"),
    }
    for figure in metrics["figures"]:
        save_figure(drawn[metrics["record"]](), folder / "figures", Path(figure["file"]).stem)


def make_run(output_dir: Path, place: int, **changes: Any) -> Path:
    metrics = make_metrics("merged", 50.0 + 0.37 * place, method=METHODS[place % len(METHODS)])
    metrics["merge"] |= {"scale": 0.1 * place, "density": 0.2}
    return finish(output_dir, "merge", {**metrics, **changes}, kind="merged", place=place)


def make_sheet(runs: list[str]) -> Sheet:
    ours = tuple(Cell(60.5 + i, 61.0, True, (59.0 + i, 62.0 + i), runs[0]) for i in range(len(TASKS)))
    absent = tuple(Cell(published=50.0) for _ in TASKS)
    rows = (Row("knots_ties", ours), Row("ties", absent, "not run: <no adapters> & none"))
    return Sheet("table1", "Table 1 <in miniature> & more, %", TASKS, rows, ("A note of the sheet.",))


def make_outputs(output_dir: Path, runs: int = 6) -> Path:
    """`runs` merges, the base, an experiment, a search and an analysis."""
    names = [make_run(output_dir, place).name for place in range(runs)]
    finish(output_dir, "merge", make_metrics("zero_shot", 40.0, joint=False), kind="zero_shot")
    figures = [{"file": "figures/chart.png", "caption": "Bars are accuracies; whiskers 95 % intervals."}]
    experiment = {
        "experiment": "mini_table1",
        "title": "mini_table1: <normalized> accuracy",
        "sheets": [make_sheet(names).to_json()],
        "figures": [*figures, {"file": "figures/../../../secret.png", "caption": "elsewhere"}],
        "runs": [*names[:2], "feedfeedfeed"],
        "notes": ["Made-up <numbers>."],
    }
    trials = [{"order": i, "options": {"scale": i / 10}, "value": 60.0 + i, "seed": 0} for i in range(1, 4)]
    search = {
        "title": "reference search",
        "protocol": "reference",
        "chosen": {"scale": 0.3, "seed": 0},
        "evaluations": 3,
        "edge": {"scale": "high", "density": None},
        "trials": trials,
        "figures": figures,
        "notes": ["the best is on the edge"],
        "test": {"run": names[0], "value": 55.5, "runs": {"0": names[0]}},
    }
    analysis = {"title": "CKA of mini_clip", "figures": figures, "notes": ["400 images a task"]}
    finish(output_dir, "mini_table1", {"schema": 1, "record": "experiment", **experiment}, e=1)
    finish(output_dir, "search", {"schema": 1, "record": "search", **search}, s=1)
    finish(output_dir, "analyze", {"schema": 1, "record": "analysis", **analysis}, a=1)
    return output_dir
