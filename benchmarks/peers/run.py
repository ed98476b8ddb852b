"""What a user would pick instead of this library, on the same adapters: PEFT, mergekit, FusionBench.

    uv run benchmarks/peers/run.py                                 eight rank-16 adapters of ViT-B/32
    uv run benchmarks/peers/run.py only=peft,mergekit tasks=4
    uv run benchmarks/peers/run.py under='taskset -c 0,1'          each measured process is started by this

Each peer is installed in a throw-away environment, with this environment's Python and torch. Every case, the
peers' and ours, is a process of its own: one merge to warm up, which tells the peak memory, then the median
of `repeats`, by the clock and (in brackets) of all processors; where other work runs at the same time the
latter says more, with threads=1. How far a merge is from ours with the same options is the Frobenius norm of
the difference over that of ours, over the whole model. A peer that cannot be installed or run is kept with
its error.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import Tensor

# The script's own folder is on the path, not the repository's.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks._measuring import RESULTS, chosen, give_up, one_of, write_results
from benchmarks.peers._inputs import PROJECTIONS, write_inputs

HERE = Path(__file__).resolve().parent

DEFAULTS: dict[str, Any] = {
    "tasks": 8,
    "rank": 16,
    "modules": 48,
    "width": 768,
    "density": 0.2,
    "drop": 0.8,
    "repeats": 3,
    "threads": os.cpu_count(),
    "enough": 60.0,
    "timeout": 1200.0,
    "only": None,
    "under": "",
    "out": str(RESULTS / "peers.json"),
}
"""`enough`: seconds after which no merge is repeated; `timeout`: seconds after which a process is ended."""

PEERS = {
    "knots": ("with_knots.py", ""),
    "peft": ("with_peft.py", "peft==0.21.2"),
    "mergekit": ("with_mergekit.py", "mergekit==0.1.5"),
    "fusion_bench": ("with_fusion_bench.py", "fusion-bench==0.2.33"),
}
"""Script, and the version that it was written for; ours is held against itself where chance has a part."""


@dataclass(frozen=True)
class Pair:
    """A peer's way to merge, ours with the same options, and why the two merges differ, if they do."""

    peer: str
    case: str
    ours: str
    why: str


FACTORS = "it merges A and B each for itself: products of different tasks' factors, entries of other matrices"
MASKS = "other random masks"
EXACT = "rounding"
FOLDED = "rounding of W + dW in float32, which moves entries over the threshold"

PAIRS = (
    Pair("knots", "dare_ties, another seed", "dare_ties", MASKS),
    Pair("knots", "dare_ties, another seed, shortened", "dare_ties, shortened", MASKS),
    Pair("peft", "cat", "task_arithmetic", EXACT),
    Pair("peft", "linear", "task_arithmetic", FACTORS),
    Pair("peft", "svd", "task_arithmetic, shortened", EXACT),
    Pair("peft", "ties", "ties_module", FACTORS),
    Pair("peft", "ties_svd", "ties_module, shortened", "it keeps one entry fewer of each module and task"),
    Pair("peft", "dare_ties", "dare_ties", FACTORS),
    Pair("peft", "dare_ties_svd", "dare_ties, shortened", MASKS),
    Pair("mergekit", "task_arithmetic", "task_arithmetic, folders", "rounding of W + dW in float32"),
    Pair("mergekit", "ties", "ties_module, folders", f"one entry fewer is kept; {FOLDED}"),
    Pair("mergekit", "dare_ties", "dare_ties, folders", f"{MASKS}; rescaled to the norm that it had"),
    Pair("mergekit", "ties of base+adapter", "ties_module, folders", ""),
    Pair("fusion_bench", "task_arithmetic", "task_arithmetic", "rounding of W + dW in float32"),
    Pair("fusion_bench", "ties", "ties", FOLDED),
    Pair("fusion_bench", "dare_ties", "dare_ties_trimmed", MASKS),
    Pair("fusion_bench", "knots_ties from its helpers", "knots_ties", f"{EXACT}; its cut-off is 1e-4"),
)


HEADER = (
    "                                                  gives                 from    "
    "seconds (of CPUs)  GB (+imports)          x ours  distance"
)


class PeerError(Exception):
    """A peer could not be installed or run; the message is its own last line."""


def run_command(words: Sequence[str], folder: Path, timeout: float, **variables: str) -> str:
    """A command's stdout, run in a folder."""
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise PeerError(f"no command {words[0]!r}") from error
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"took longer than {timeout:g} s") from error
    if done.returncode != 0:
        raise PeerError(last_line(done.stderr) or f"exit status {done.returncode}")
    return done.stdout


def last_line(text: str) -> str:
    """The last line with anything on it, without what tells this machine from another."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].replace(str(Path.home()), "~").replace(tempfile.gettempdir(), "") if lines else ""


def install(requirement: str, folder: Path, timeout: float) -> Path:
    """A new environment with one package, and this environment's torch and transformers; its Python.

    Without a requirement it is this environment.
    """
    if not requirement:
        return Path(sys.executable)
    uv, python = shutil.which("uv") or "uv", folder / "bin" / "python"
    same = [f"torch=={torch.__version__.partition('+')[0]}", f"transformers=={transformers.__version__}"]
    make = [uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(folder)]
    fill = [uv, "pip", "install", "--quiet", "--python", str(python), requirement, *same]
    for command in (make, fill):
        run_command(command, folder.parent, timeout)
    return python


def run_case(python: Path, script: str, case: str, folder: Path, cfg: Any) -> dict[str, Any]:
    """What one process measured of one case; its merge lies in `<folder>/result.safetensors` then."""
    with _empty(folder / "scratch") as scratch:
        work = {
            "base": str(folder / "base"),
            "adapters": [str(folder / "adapters" / f"task_{task}") for task in range(cfg.tasks)],
            "scratch": str(scratch),
            "result": str(folder / "result.safetensors"),
            "seed": 420,
            **{key: cfg[key] for key in ("rank", "density", "drop", "threads", "repeats", "enough")},
        }
        words = [*shlex.split(cfg.under), str(python), str(HERE / script), case, json.dumps(work)]
        variables = {"OMP_NUM_THREADS": str(cfg.threads), "HF_HUB_OFFLINE": "1"}
        printed = run_command(words, folder, cfg.timeout, **variables)
    found: dict[str, Any] = json.loads(last_line(printed))
    return found


@contextmanager
def _empty(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def distance(got: Path, expected: Path) -> float:
    """|got - expected| / |expected|, both files of updates over the whole model."""
    error = norm = 0.0
    with safe_open(got, "pt") as one, safe_open(expected, "pt") as other:
        modules = {key.removesuffix(".a").removesuffix(".b") for key in other.keys()}  # noqa: SIM118
        for module in sorted(modules):
            exact = _dense(other, module)
            error += float((_dense(one, module) - exact).square().sum())
            norm += float(exact.square().sum())
    return (error / norm) ** 0.5


def _dense(file: Any, module: str) -> Tensor:
    if module in file.keys():  # noqa: SIM118
        return file.get_tensor(module).double()
    return file.get_tensor(f"{module}.b").double() @ file.get_tensor(f"{module}.a").double()


def measure_ours(names: Sequence[str], folder: Path, cfg: Any) -> dict[str, dict[str, Any]]:
    """Every case of ours that a peer is held against; each merge is kept as `<folder>/ours/<name>`."""
    (folder / "ours").mkdir()
    found = {}
    for name in names:
        found[name] = run_case(Path(sys.executable), "with_knots.py", name, folder, cfg)
        (folder / "result.safetensors").rename(folder / "ours" / name)
        print(row("knots", name, found[name], None), flush=True)
    return found


def measure_peer(peer: str, ours: Mapping[str, Any], folder: Path, cfg: Any) -> list[dict[str, Any]]:
    """Install a peer and run its cases; what fails is told as `failed`."""
    script, requirement = PEERS[peer]
    pairs = [pair for pair in PAIRS if pair.peer == peer]
    try:
        python = install(requirement, folder / peer, cfg.timeout)
    except PeerError as error:
        found = [{**asdict(pair), "failed": f"not installed: {error}"} for pair in pairs]
    else:
        found = [measure_pair(pair, python, script, ours, folder, cfg) for pair in pairs]
        shutil.rmtree(folder / peer, ignore_errors=True)
    for one in found:
        print(row(peer, one["case"], one, ours[one["ours"]]), flush=True)
    return found


def measure_pair(
    pair: Pair, python: Path, script: str, ours: Mapping[str, Any], folder: Path, cfg: Any
) -> dict[str, Any]:
    """A peer's case beside ours."""
    try:
        found = run_case(python, script, pair.case, folder, cfg)
    except PeerError as error:
        return {**asdict(pair), "failed": str(error)}
    apart = distance(folder / "result.safetensors", folder / "ours" / pair.ours)
    theirs, mine = found["seconds"], ours[pair.ours]["seconds"]
    ratio = {clock: theirs[clock] / mine[clock] for clock in theirs}
    return {**asdict(pair), **found, "ratio": ratio, "distance": apart}


def row(peer: str, case: str, found: Mapping[str, Any], ours: Mapping[str, Any] | None) -> str:
    """One line of the table."""
    head = f"{peer:12}  {case:34}  "
    if "failed" in found:
        return f"{head}failed: {found['failed']}"
    peak, imported = found["bytes"]["peak"], found["bytes"]["imported"]
    memory = "-" if peak is None else f"{peak / 1e9:.2f} (+{(peak - imported) / 1e9:.2f})"
    way = found["start"] if found["start"] == found["end"] else f"{found['start']} to {found['end']}"
    line = f"{head}{found['gives']:20}  {way:6}  {both(found['seconds']):17}  {memory:13}"
    return line if ours is None else f"{line}  {both(found['ratio']):>14}  {found['distance']:8.2g}"


def both(clocks: Mapping[str, float]) -> str:
    """By the clock, and of all processors."""
    return f"{clocks['wall']:.2f} ({clocks['cpu']:.2f})"


def checked(cfg: Any) -> list[str]:
    """The peers that are wanted; a wrong option ends the program."""
    for name in ("tasks", "rank", "modules", "width", "repeats", "threads"):
        if not isinstance(cfg[name], int) or cfg[name] < 1:
            give_up(f"{name}={cfg[name]}; allowed: a whole number of 1 or more")
    if cfg.modules % len(PROJECTIONS):
        give_up(
            f"modules={cfg.modules}; allowed: multiples of {len(PROJECTIONS)}, the projections of a layer"
        )
    if not 0 < cfg.density < 1 or not 0 < cfg.drop < 1:
        give_up(f"density={cfg.density} drop={cfg.drop}; allowed: fractions between 0 and 1")
    wanted = list(PEERS) if cfg.only is None else str(cfg.only).split(",")
    return [one_of("only", name, PEERS) for name in wanted]


def main(words: Sequence[str] | None = None) -> None:
    """Measure ours and each peer, print the table, write the JSON."""
    cfg = chosen(DEFAULTS, words)
    peers = checked(cfg)
    print(HEADER)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = {key: cfg[key] for key in ("tasks", "rank", "modules", "width")}
        write_inputs(folder, **shape)
        counterparts = dict.fromkeys(pair.ours for pair in PAIRS if pair.peer in peers)
        ours = measure_ours(list(counterparts), folder, cfg)
        found = [one for peer in peers for one in measure_peer(peer, ours, folder, cfg)]
    options = {key: value for key, value in cfg.items() if key != "under"}
    write_results(Path(cfg.out), options, {"ours": ours, "peers": found})


if __name__ == "__main__":
    main()
