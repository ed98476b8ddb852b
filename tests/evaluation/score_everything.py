"""Score every predictor on suites of odd, tiny and empty splits; also run as a script by two processes.

    python -m tests.evaluation.score_everything CLIP_FOLDER OUTPUT_FOLDER PROCESSES

Each process writes what it was given as its result to OUTPUT_FOLDER/<its rank>.pickle.
"""

import pickle
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import lightning as L
import torch

from knots.evaluation import (
    Ensemble,
    EvaluationResult,
    Finetuned,
    Merged,
    Predictor,
    Router,
    ZeroShot,
    evaluate,
)
from knots.models.clip import ClipSpec, load_clip
from knots.processes import cluster_environment
from knots.suites import data
from tests.miniatures import NOISE, tiny_adapter_in_memory, tiny_suite

SIZES = (
    {"numbers": 21, "patterns": 34, "digits": 13},
    {"numbers": 1, "patterns": 0, "digits": 3},
    {"patterns": 1},
    {"numbers": 0, "patterns": 0, "digits": 0},
)


def score_everything(clip_folder: Path, cache_dir: Path, processes: int) -> list[EvaluationResult]:
    """Every predictor on every suite of `SIZES`, with one trainer after the other."""
    data.SOURCES = {"noise": NOISE}
    clip = load_clip(ClipSpec("tiny", str(clip_folder)))
    adapters = [tiny_adapter_in_memory(f"task {seed}", seed, rank=2 + seed, size=1.5) for seed in range(3)]
    results = []
    for sizes in SIZES:
        own = adapters[: len(sizes)]
        predictors: list[Predictor] = [ZeroShot(), Merged(lambda _: adapters[1]), Ensemble(adapters)]
        for predictor in [*predictors, Finetuned(own), Router(own)]:
            trainer = L.Trainer(
                accelerator="cpu",
                devices=processes,
                strategy="ddp" if processes > 1 else "auto",
                plugins=[cluster_environment()],
                use_distributed_sampler=False,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
            )
            suite = tiny_suite(sizes)
            tasks = [replace(task, sizes={**task.sizes, "validation": 9}) for task in suite.tasks]
            suite = replace(suite, tasks=tuple(tasks))
            options = {"mode": "all", "protocol": "float32", "split": "test", "batch_size": 8}
            results.append(
                evaluate(clip, suite, predictor, cache_dir=cache_dir, trainer=trainer, **options)  # type: ignore[arg-type]
            )
    return results


def main(clip_folder: str, output: str, processes: str) -> None:
    """Score, and write this process's own view of the results."""
    torch.set_num_threads(1)
    results = score_everything(Path(clip_folder), Path(output) / "cache", int(processes))
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    (Path(output) / f"{rank}.pickle").write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    warnings.filterwarnings("error", module=r"knots\.|torchmetrics")
    main(*sys.argv[1:])
