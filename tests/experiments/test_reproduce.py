"""`experiments/reproduce.py` over the tiny CLIP, from the command line to tables and figures."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from experiments._cli import CONF
from experiments._compose import composer
from experiments.reproduce import PUBLISHED
from knots.pipelines.reproduce import KINDS, parse_experiment
from knots.reporting.published import load_published
from tests.experiments.conftest import Finished

Command = Callable[..., Finished]

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("[!_]*.yaml"))
FAST = "search.values.scale=[0.5,1.0] search.values.density=[0.3] search.values.drop=[0.5] search.seeds=[1,2]"


@pytest.fixture
def tiny_run(small: list[str]) -> list[str]:
    """What the job itself takes of the overrides that make runs tiny, and the rest for its runs."""
    own = [o for o in small if o.startswith(("paths.", "logger=", "trainer="))]
    runs = " ".join(o for o in small if o not in own)
    return [*own, f"overrides={runs} {FAST}"]


def folder_of(tmp_path: Path, name: str) -> Path:
    (found,) = (path for path in (tmp_path / "outputs" / name).iterdir() if not path.name.startswith("."))
    return found


def test_one_command_runs_a_table_and_prints_it(command: Command, tiny_run: list[str], tmp_path: Path):
    done = command("reproduce", ["experiment=mini_table1", *tiny_run])
    assert (done.code, done.err) == (0, "")
    folder = folder_of(tmp_path, "mini_table1")
    record = json.loads((folder / "metrics.json").read_text())
    rows = [row["label"] for row in record["sheets"][0]["rows"]]
    assert [row for row in rows if "seeds" not in row] == [
        *("Zero-shot", "Best single adapter", "Multi-task LoRA", "Fine-tuned"),
        *("RegMean", "Task Arithmetic", "TIES", "DARE-TIES", "KnOTS-TIES", "KnOTS-DARE-TIES"),
        "minimal detectable difference",
    ]
    assert [row for row in rows if "seeds" in row] == [
        f"{method}, {what} of 2 seeds"
        for method in ("DARE-TIES", "KnOTS-DARE-TIES")
        for what in ("mean", "deviation")
    ]
    assert "Table 1 in miniature" in done.out
    assert max(len(line) for line in done.out.splitlines() if "figures: " not in line) <= 80
    with (folder / "tables" / "mini_table1.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == len(rows) * 9
    costs = record["sheets"][1]
    merged = ["RegMean", "Task Arithmetic", "TIES", "DARE-TIES", "KnOTS-TIES", "KnOTS-DARE-TIES"]
    assert [row["label"] for row in costs["rows"]] == merged
    assert [column for column in costs["columns"] if "rank " in column] == [
        "average, rank 16",
        "average, rank 8",
    ]
    assert (folder / "tables" / "mini_table1_differences.csv").read_text().count("\n") == 1 + 15 * 9
    # The same command finds everything and shows the same.
    again = command("reproduce", ["experiment=mini_table1", *tiny_run])
    assert again.code == 0
    assert folder_of(tmp_path, "mini_table1") == folder
    assert "evaluating" not in again.out
    assert json.loads((folder / "metrics.json").read_text()) == record


def test_what_was_not_run_is_said(command: Command, tiny_run: list[str], tmp_path: Path):
    done = command("reproduce", ["experiment=mini_table1", "run=false", *tiny_run])
    assert (done.code, done.err) == (0, "")
    assert "not run" in done.out
    assert "minimal detectable difference: planned" in " ".join(done.out.split())
    assert not (tmp_path / "outputs" / "merge").exists()


def test_bounds_stand_beside_merges_and_one_that_is_not_there_is_no_failure(
    command: Command, tiny_run: list[str], tmp_path: Path
):
    rows = "experiment.rows=[zero_shot,single,router,multitask,finetuned,ensemble,ties]"
    arguments = ["experiment=mini_table4", rows, "experiment.settings=published", *tiny_run]
    done = command("reproduce", arguments)
    assert (done.code, done.err) == (0, "")
    record = json.loads((folder_of(tmp_path, "mini_table4") / "metrics.json").read_text())
    sheet = record["sheets"][0]
    assert [row["label"] for row in sheet["rows"]] == [
        *("Zero-shot", "Best single adapter", "Nearest-adapter router", "Multi-task LoRA", "Fine-tuned"),
        *("Ensemble", "TIES", "minimal detectable difference"),
    ]
    assert all(cell["ours"] is not None for row in sheet["rows"] for cell in row["cells"])
    notes = "\n".join(sheet["notes"])
    assert "Best single adapter: adapter of " in notes
    assert "chosen by the Hits@3 on the validation split: digits " in notes
    assert "Nearest-adapter router: routed to their own task's adapter: digits " in notes
    again = command("reproduce", arguments)
    assert (again.code, "evaluating" in again.out) == (0, False)
    # A model that has no jointly trained adapter: the row says so, and what would help stands below.
    without = [re.sub(r"model\.multitask=\S+", "model.multitask=null", a) for a in arguments]
    done = command("reproduce", without)
    assert (done.code, done.err) == (0, "")
    found = [
        json.loads(p.read_text()) for p in (tmp_path / "outputs" / "mini_table4").glob("[!.]*/metrics.json")
    ]
    sheet = next(one for one in found if one["sheets"] != record["sheets"])["sheets"][0]
    missing = {row["label"]: row["missing"] for row in sheet["rows"] if row["missing"]}
    assert missing == {
        "Multi-task LoRA": "model 'mini_clip' has no adapter that was trained on all tasks jointly"
    }
    assert any("multitask=true and name it with model.multitask=<folder>" in note for note in sheet["notes"])


def test_a_row_that_fails_leaves_the_others_and_the_exit_code_says_so(
    command: Command, tiny_run: list[str], tmp_path: Path
):
    bad = '{merge: knots_ties, label: Bad, published: false, overrides: ["merge.density=7"]}'
    arguments = ["experiment=mini_table_a1", "experiment.settings=published", f"experiment.rows=[ties,{bad}]"]
    done = command("reproduce", [*arguments, *tiny_run])
    assert done.code == 2
    assert "error: Bad could not be run; the rest is kept: " in done.err
    assert "Traceback" not in done.err
    record = json.loads((folder_of(tmp_path, "mini_table_a1") / "metrics.json").read_text())
    missing = {row["label"]: row["missing"] for row in record["sheets"][0]["rows"]}
    assert missing["TIES"] is None
    assert "density" in missing["Bad"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["experiment=table9"], "unknown experiment 'table9'"),
    (["experiment.kind=tabel"], "experiment.kind 'tabel'; did you mean 'table'?"),
    (["experiment.rows=[tise]"], "unknown merge 'tise'; did you mean 'ties'"),
    (["overrides=batchsize=3"], "batchsize"),
    (["experiment.settings=tuned"], "experiment.settings"),
    (["+experiment.colour=red"], "unknown key of 'experiment'"),
    (["experiment.max_ranks=8"], "experiment.max_ranks=8; a list of ranks is needed"),
    (["experiment.costs=1"], "experiment.costs=1; true or false"),
])  # fmt: skip
def test_a_mistake_is_one_message(command: Command, tmp_path: Path, arguments: list[str], message: str):
    done = command("reproduce", [f"paths.output_dir={tmp_path}/outputs", *arguments])
    assert (done.code, done.err.count("error: ")) == (2, 1), done.err
    assert message in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "outputs").exists()


def test_every_experiment_of_the_issue_has_a_file_and_a_twin():
    whole = {"table1", "table2", "table3", "table4", "table_a1", "figure2", "figure3", "figure4"}
    whole |= {"rows_vs_columns", "variants"}
    # What asks how far the miniature can be trusted, or holds the claims against it, has no twin.
    own = {"mini_universes", "mini_shared_init", "mini_claims", "real_claims"}
    assert set(EXPERIMENTS) == whole | {f"mini_{name}" for name in whole} | own


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_s_header_states_command_hardware_and_what_it_is_compared_with(name: str):
    lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert f"uv run experiments/reproduce.py experiment={name}" in header
    for word in ("Hardware:", "Compared with:"):
        assert word in header
    values = yaml.safe_load("\n".join(lines))
    assert values["name"] == name
    assert values["kind"] in KINDS
    if name.startswith("mini_"):
        assert "Not the paper's result" in header
        assert "miniature" in values["title"]
        assert values.get("paper") is None or values["kind"] == "claims"


@pytest.fixture
def parsed(tmp_path: Path):
    """Parses experiments as the entry point does, within Hydra's configuration."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    from experiments._cli import plain

    with initialize_config_dir(str(CONF), version_base="1.3"):

        def parse(*overrides: str):
            loader = GlobalHydra.instance().config_loader()
            asked = ["logger=none", f"paths.output_dir={tmp_path}", *overrides]
            loaded = loader.load_configuration("reproduce", overrides=asked, run_mode=RunMode.RUN)
            del loaded._content["hydra"]
            config = plain(loaded)
            return parse_experiment(config, composer(config), load_published(PUBLISHED))

        yield parse


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_a_plan(parsed, name: str):
    assert parsed(f"experiment={name}").experiment.name == name


def test_the_job_s_devices_and_folders_are_those_of_its_runs(parsed, tmp_path: Path):
    plan = parsed("experiment=table1", "trainer=gpu", "overrides='batch_size=64 search.trials=3'")
    (table,) = plan.make.args
    for row in table.rows:
        assert row.merge.trainer["accelerator"] == "gpu"
        assert row.merge.root == tmp_path / "merge"
        assert row.merge.scoring.batch_size == 64
        assert row.merge.scoring.protocol == "reference"


def test_published_options_of_the_paper_s_models_are_in_their_rows(parsed):
    (table,) = parsed("experiment=table1").make.args
    options = {row.method: row.merge.options for row in table.rows if row.merge.kind == "merged"}
    assert (options["knots_ties"]["scale"], options["knots_ties"]["density"]) == (0.6, 0.2)
    (table,) = parsed("experiment=table3").make.args
    script = {row.label: row for row in table.rows}["KnOTS-TIES (script)"]
    assert (script.merge.options["scale"], script.merge.options["density"]) == (1.0, 0.4)
    assert script.method is None


def test_variants_have_the_published_options_of_the_method_whose_name_they_bear(parsed):
    (table,) = parsed("experiment=variants").make.args
    rows = {row.label: row.merge for row in table.rows}
    for label in ("KnOTS-TIES", "KnOTS-TIES (Core Space)", "KnOTS-TIES (TARA)"):
        assert (rows[label].options["scale"], rows[label].options["density"]) == (0.6, 0.2)
        assert "KnOTS@baa35e8" in rows[label].description["source"]
    assert rows["KnOTS-TIES (Core Space)"].label == "knots_ties_unscaled"
    dare = rows["KnOTS-DARE-TIES (TARA)"]
    assert (dare.label, dare.seed, dare.options["dare_rng"]) == ("knots_dare_ties_count", 421, "reference")


def test_table_1_shows_the_published_figures_though_nothing_was_run(parsed):
    from knots.pipelines.reproduce.tables import published_figure

    (table,) = parsed("experiment=table1").make.args
    rows = {row.label: row for row in table.rows}
    assert published_figure(table, rows["KnOTS-TIES"], "average").published == 68.0
    assert published_figure(table, rows["KnOTS-TIES"], "svhn").published == 53.8
    assert published_figure(table, rows["Fine-tuned"], "mnist").published == 99.3
    assert published_figure(table, rows["RegMean"], "average").second_hand
    assert published_figure(table, rows["DARE-TIES"], "svhn").published is None
    (table,) = parsed("experiment=table_a1").make.args
    rows = {row.label: row for row in table.rows}
    assert published_figure(table, rows["Fisher"], "average").published == 63.9
    assert published_figure(table, rows["KnOTS-TIES"], "average").published == 68.0
    (table,) = parsed("experiment=variants").make.args
    rows = {row.label: row for row in table.rows}
    assert published_figure(table, rows["TIES (TARA)"], "svhn").published == 45.3
    assert published_figure(table, rows["TIES"], "svhn").published == 44.6
    assert published_figure(table, rows["KnOTS-TIES (Core Space)"], "average").published == 74.02
    assert published_figure(table, rows["KnOTS-TIES (TARA)"], "average").published is None
    (table,) = parsed("experiment=table4").make.args
    rows = {row.label: row for row in table.rows}
    assert published_figure(table, rows["KnOTS-TIES"], "hits@3").published == 68.1
