"""Sweeps on a real cluster: what goes wrong is seen, run again, and changes no number."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file

from experiments._cli import CONF
from tests.miniatures import tiny_adapter, tiny_clip
from tests.slurm.conftest import Cluster

ENTRY_POINTS = CONF.parent / "experiments"
TASKS = ("digits", "signs")
JOBS = 12
KILLED, CANCELLED, ENDLESS, BROKEN = 3, 4, 5, 6

RULE = '''
"""A rule that goes wrong in another way for some numbers, the first time that it is asked."""
import time
from pathlib import Path

HERE = Path(__file__).parent / "asked"


def trouble(coords, number=0):
    seen = HERE / str(number)
    if not seen.exists():
        seen.touch()
        if number == 6:
            raise RuntimeError("broken on purpose")
        while number in (3, 4, 5):
            time.sleep(0.1)
    return coords.mean(dim=0) * (1 + number / 10)
'''


@dataclass(frozen=True)
class Desk:
    """A login node's user with a tiny model, whose commands find the cluster."""

    cluster: Cluster
    folder: Path

    def type(self, script: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run an entry point."""
        own = {"OMP_NUM_THREADS": "1", "KNOTS_CACHE": str(self.folder / "cache"), "COLUMNS": "200"}
        command = (sys.executable, ENTRY_POINTS / script, *words)
        return self.cluster.run(*command, cwd=self.folder, check=check, environment=own, seconds=600)

    def model(self) -> list[str]:
        """Overrides for the tiny model and few items."""
        sizes = (f"suite.tasks.{task}.sizes.{split}=24" for task in TASKS for split in ("test", "validation"))
        return [
            f"model.base={self.folder}/base",
            f"adapters={self.folder}/adapters/{{task}}",
            *(f"tasks=[{','.join(TASKS)}]", "logger=none", "trainer=cpu", "keep_adapter=false"),
            *sizes,
        ]

    def sweep(self, script: str, *words: str) -> Path:
        """Submit a sweep; its folder."""
        out = self.type(script, "hydra/launcher=slurm_local", *words).stdout
        found = re.search(r"submitted \d+ jobs? of .* to Slurm \(.*\): (\S+)", out)
        assert found, out
        return Path(found[1])

    def steer(self, action: str, *words: str) -> tuple[int, str]:
        """`sweep.py`; its exit code and all that it says."""
        done = self.type("sweep.py", action, "every=1", *words, check=False)
        return done.returncode, done.stdout + done.stderr

    def runs(self, outputs: str = "outputs") -> dict[str, Any]:
        """Run id -> what was measured."""
        found = (self.folder / outputs / "merge").glob("[!.]*/metrics.json")
        return {path.parent.name: json.loads(path.read_text()) for path in found}


@pytest.fixture
def desk(cluster: Cluster, tmp_path: Path) -> Desk:
    tiny_clip(tmp_path / "base")
    for seed, task in enumerate(TASKS):
        tiny_adapter(tmp_path / "adapters" / task, seed=seed, rank=2)
    (tmp_path / "asked").mkdir()
    (tmp_path / "rule.py").write_text(RULE)
    return Desk(cluster, tmp_path)


def records(sweep: Path) -> list[str]:
    """The last record of every job."""
    places = [sweep / "jobs" / str(number) for number in range(JOBS)]
    return [next((n for n in ("done", "failed") if (p / f"{n}.json").is_file()), "") for p in places]


def test_a_sweep_survives_the_cluster(desk: Desk):
    cluster = desk.cluster
    numbers = f"+merge.number={','.join(map(str, range(JOBS)))}"
    rule = [f"merge.rule={desk.folder}/rule.py:trouble", "eval=all", *desk.model()]
    sweep = desk.sweep("merge.py", "hydra.launcher.signal_delay_s=110", numbers, *rule)
    manifest = json.loads((sweep / "sweep.json").read_text())
    names = [job["ids"][-1] for job in manifest["jobs"]]
    assert names == [f"{names[0].partition('_')[0]}_{number}" for number in range(JOBS)]

    # Two at a time: the fourth and the fifth job hang, one after the other or side by side.
    asked = desk.folder / "asked"
    cluster.wait_for((asked / str(KILLED)).exists, 120)
    busy = cluster.run("squeue", "--noheader", "--array", "--states=R", "--format=%i").stdout.split()
    assert len(busy) <= 2
    cluster.run("scontrol", "update", "nodename=localhost", "state=drain", "reason=maintenance")
    cluster.run("scancel", "--signal=KILL", names[KILLED])
    cluster.wait_for((asked / str(CANCELLED)).exists, 60) if names[CANCELLED] in busy else None
    code, shown = desk.steer("status")
    assert "pending" in shown
    cluster.run("scontrol", "update", "nodename=localhost", "state=resume")
    cluster.wait_for((asked / str(CANCELLED)).exists, 120)
    cluster.run("scancel", names[CANCELLED])
    cluster.wait_for((asked / str(ENDLESS)).exists, 120)
    run_into_its_limit(cluster, names[ENDLESS], sweep / "logs" / f"{names[ENDLESS]}_0_log.out")

    code, shown = desk.steer("wait")
    assert code == 2
    assert f"12 jobs: {JOBS - 3} done, 1 failed, 2 missing" in shown, shown
    assert [n for n, record in enumerate(records(sweep)) if record != "done"] == [KILLED, CANCELLED, BROKEN]
    assert f"job {BROKEN} failed: RuntimeError: broken on purpose" in shown
    assert f"job {CANCELLED} missing: it left no record of its end" in shown
    assert "CANCELLED AT" in shown
    # The endless one was told to stop before its limit, queued again, and went on to the end.
    log = (sweep / "logs" / f"{names[ENDLESS]}_0_log.out").read_text()
    assert "stopped by SIGUSR2; what was done is kept" in log
    assert "Requeued job" in log
    assert json.loads((sweep / "jobs" / str(BROKEN) / "failed.json").read_text())["traceback"]

    code, shown = desk.steer("resubmit")
    assert (code, f"submitted again: jobs {KILLED}, {CANCELLED}, {BROKEN}" in shown) == (0, True)
    code, shown = desk.steer("wait")
    assert (code, "12 jobs: 12 done" in shown) == (0, True)
    assert desk.steer("resubmit")[1].startswith("submitted again: no job")
    check_as_local(desk, ["merge.py", "-m", numbers, *rule])


def run_into_its_limit(cluster: Cluster, job: str, log: Path) -> None:
    """Bring a running job's time limit within its signal's delay; wait until it is queued again.

    The others keep the long limit, so that a busy machine is no reason to stop them.
    """
    minutes, _ = divmod(cluster.elapsed(job), 60)
    cluster.run("scontrol", "update", f"jobid={job}", f"timelimit={minutes + 3}")
    cluster.wait_for(lambda: "Requeued job" in log.read_text(), 240)
    cluster.run("scontrol", "update", f"jobid={job}", "timelimit=60")


def check_as_local(desk: Desk, command: list[str]) -> None:
    """Every run is there once, with the numbers of the same sweep on this machine, and so is the report."""
    script, *words = command
    desk.type(script, *words, "paths.output_dir=local")
    here, there = desk.runs(), desk.runs("local")
    assert here == there
    assert len(here) == JOBS + 2
    options = Counter(json.dumps(run["merge"], sort_keys=True) for run in here.values())
    assert set(options.values()) == {1}
    pages = [report(desk, name) for name in ("outputs", "local")]
    pd.testing.assert_frame_equal(*pages)
    assert len(pages[0]) == JOBS + 2


def report(desk: Desk, outputs: str) -> pd.DataFrame:
    """The report of all runs, as a table without the times."""
    out = desk.type("report.py", "format=csv", "page=false", f"paths.output_dir={outputs}").stdout
    table = pd.read_csv(StringIO(out.replace(f"{outputs}/", "")), dtype=str)
    return table.drop(columns=["started", "finished"])


def test_jobs_that_want_the_same_run_make_it_once(desk: Desk):
    sweep = desk.sweep("merge.py", "merge.scale=0.3,0.30", "merge=ties", *desk.model())
    code, shown = desk.steer("wait")
    assert (code, "2 jobs: 2 done" in shown) == (0, True), shown
    made = {tuple(json.loads(path.read_text())["runs"]) for path in sweep.glob("jobs/*/done.json")}
    assert len(made) == 1
    assert len(desk.runs()) == 3
    assert not list((desk.folder / "outputs" / "merge").glob(".*"))


def test_a_training_that_gives_way_to_another_job_ends_with_the_same_adapter(desk: Desk):
    sizes = ["suite.tasks.digits.sizes.train=400", "suite.tasks.digits.sizes.validation=24"]
    recipe = [
        "finetune.steps=4000",
        "finetune.validate_every=40",
        "finetune.patience=4000",
        "finetune.warmup=4",
    ]
    words = ["task=digits", f"model.base={desk.folder}/base", "logger=none", "trainer=cpu", *sizes, *recipe]
    sweep = desk.sweep("finetune.py", *words, "folder=there")
    cluster, kept = desk.cluster, desk.folder / "there" / ".digits.training" / "last.ckpt"
    cluster.wait_for(kept.exists, 120)
    urgent = cluster.submit("--partition=urgent", "--exclusive", "--wrap=sleep 1", cwd=desk.folder)
    cluster.wait_for(lambda: cluster.ended(urgent), 120)
    assert not (desk.folder / "there" / "digits").exists()
    code, shown = desk.steer("wait")
    assert (code, "1 job: 1 done" in shown) == (0, True), shown
    (log,) = (sweep / "logs").glob("*_log.out")
    assert "going on from step" in log.read_text()
    desk.type("finetune.py", *words, "folder=here")
    here, there = (
        load_file(desk.folder / n / "digits" / "adapter_model.safetensors") for n in ("here", "there")
    )
    assert all(bool((there[name] == weight).all()) for name, weight in here.items())


def test_two_processes_of_a_job_share_evaluation_and_training(desk: Desk):
    parallel = [
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "hydra.launcher.tasks_per_node=2",
    ]
    words = [one for one in desk.model() if one != "trainer=cpu"]
    desk.sweep("merge.py", "merge=ties", "eval=all", *words, *parallel)
    code, shown = desk.steer("wait")
    assert (code, "1 job: 1 done" in shown) == (0, True), shown
    desk.type("merge.py", "merge=ties", "eval=all", *words, "trainer=cpu", "paths.output_dir=local")
    assert desk.runs() == desk.runs("local")
    recipe = ["finetune.steps=24", "finetune.validate_every=12", "finetune.warmup=2"]
    sizes = ["suite.tasks.digits.sizes.train=200", "suite.tasks.digits.sizes.validation=24"]
    teach = ["task=digits", f"model.base={desk.folder}/base", "logger=none", "folder=there", *sizes, *recipe]
    desk.sweep("finetune.py", *teach, *parallel)
    code, shown = desk.steer("wait")
    assert (code, "1 job: 1 done" in shown) == (0, True), shown
    assert (desk.folder / "there" / "digits" / "adapter_config.json").is_file()


def test_jobs_that_slurm_does_not_take_are_one_message(desk: Desk):
    done = desk.type(
        "merge.py",
        "hydra/launcher=slurm_local",
        "hydra.launcher.partition=nowhere",
        *desk.model(),
        check=False,
    )
    assert done.returncode == 2
    assert "Slurm did not take the jobs of" in done.stderr
    assert "invalid partition" in done.stderr
    assert "Traceback" not in done.stderr
    code, shown = desk.steer("status")
    assert code == 2
    assert "not submitted" in shown
