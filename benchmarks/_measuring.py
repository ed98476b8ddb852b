"""What the benchmarks share: the words of their command line, clocks, the machine, files of results."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from knots.provenance import describe_machine

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def chosen(defaults: Mapping[str, Any], words: Sequence[str] | None = None) -> Any:
    """The defaults under the `key=value` words of the command line; a wrong word ends the program.

    Args:
        defaults: every option with its value.
        words: None takes those of the command line.
    """
    given = sys.argv[1:] if words is None else words
    for word in given:
        key, sign, _ = word.partition("=")
        if not sign or key.partition(".")[0] not in defaults:
            give_up(f"{word!r} is no option; allowed: {', '.join(f'{key}=' for key in defaults)}")
    try:
        merged = OmegaConf.merge(defaults, OmegaConf.from_cli(list(given)))
        OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        give_up(str(error).partition("\n")[0])
    return merged


def one_of(name: str, value: str, allowed: Sequence[str] | Mapping[str, Any]) -> str:
    """The value, if it is allowed; else the program ends."""
    if value not in allowed:
        give_up(f"{name}={value}; allowed: {', '.join(allowed)}")
    return value


def give_up(message: str) -> NoReturn:
    """End the program with one line, as at a user's mistake."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


@contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """End the program with one line where an entry point would: at a user's mistake, not at a bug."""
    from experiments._cli import mistake_of  # with Hydra, which processes that only merge do without

    try:
        yield
    except Exception as error:
        message = mistake_of(error)
        if message is None:
            raise
        give_up(message)


def synchronize(device: torch.device | str) -> None:
    """Wait until a device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def timed(step: Callable[[], Any], device: torch.device | str = "cpu") -> tuple[dict[str, float], Any]:
    """Seconds of a step, by the clock and of all processors, from idle device to idle device; its result."""
    synchronize(device)
    wall, processors = time.perf_counter(), time.process_time()
    result = step()
    synchronize(device)
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - processors}, result


def median_seconds(step: Callable[[], Any], repeats: int, device: torch.device | str = "cpu") -> float:
    """Median of a step's seconds by the clock, after one more call that warms up."""
    step()
    return statistics.median(timed(step, device)[0]["wall"] for _ in range(repeats))


def peak_memory(device: torch.device | str = "cpu") -> int:
    """The most memory that this process has held on a device, in bytes.

    Of a GPU what torch's allocator has given out; of the CPU what was resident, elsewhere than on Linux
    perhaps the parent's.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    lines = status.read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024


def forget_peak(device: torch.device | str = "cpu") -> int:
    """Bytes that this process holds on a device now, from where `peak_memory` begins anew.

    Where the system does not forget a peak, the CPU's so far.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    forget = Path("/proc/self/clear_refs")
    if forget.exists():
        forget.write_text("5", encoding="ascii")
    return peak_memory()


def in_new_process(function: Callable[..., Any], *arguments: object) -> Any:
    """A function's result, from a process whose peak memory is the function's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def processor_name() -> str:
    """What the machine calls its processor."""
    if sys.platform != "linux":
        return "unknown"
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")


def machine_facts() -> dict[str, Any]:
    """Commit, date, versions and machine, without names that tell one machine from another."""
    facts = {key: value for key, value in describe_machine().items() if key != "command"}
    machine = {key: value for key, value in facts["machine"].items() if key != "host"}
    machine |= {
        "cpu": processor_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "waiting": os.environ.get("OMP_WAIT_POLICY", "default"),
        "load_average": round(os.getloadavg()[0], 2),
    }
    return {"date": time.strftime("%Y-%m-%d", time.gmtime()), **facts, "machine": machine}


def write_results(path: Path, options: Any, measured: Any) -> None:
    """Write what was measured, with the options and the facts of the machine, as JSON."""
    plain = OmegaConf.to_container(options) if isinstance(options, DictConfig) else dict(options)
    plain = {key: value for key, value in plain.items() if key != "out"}
    content = {**machine_facts(), "options": plain, "measured": measured}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
