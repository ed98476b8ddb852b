"""What the logit scale does to fine-tuning: the reference's effective 10,000, 100 and the miniature's 30.

    uv run benchmarks/logit_scale.py
    uv run benchmarks/logit_scale.py tasks=[digits] scales=[10,30] steps=200 out=outputs/logit_scale.json

Everything else is the recipe of `conf/finetune/lora.yaml`. Accuracies are on the validation split, in
percent, the best of the looks at it; the size of the updates is |dW| / |W| (Frobenius norm), the mean over
modules.
"""

from __future__ import annotations

import json
import logging
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from benchmarks._measuring import chosen
from experiments._cli import CONF, plain
from knots.adapters import load_adapter
from knots.finetuning import finetune_tasks, parse_plan
from knots.models.clip import Clip, ClipSpec, load_clip
from knots.provenance import describe_machine
from knots.suites.tasks import parse_suite

DEFAULTS = {
    "tasks": ["signs", "textures"],
    "scales": [30, 100, 10000],
    "steps": 600,
    "out": str(Path(__file__).parent / "results" / "logit_scale.json"),
}


def composed(scale: float, steps: int) -> dict[str, Any]:
    overrides = ["finetune=lora", "trainer=cpu", "logger=none", f"finetune.scale={scale}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(compose("finetune", overrides=[*overrides, f"finetune.steps={steps}"]))


def update_size(clip: Clip, folder: Path) -> float:
    """Mean over the modules of |dW| / |W|."""
    adapter = load_adapter(folder)
    sizes = [
        update.dense().norm() / clip.tower.get_submodule(name).weight.norm()
        for name, update in adapter.updates.items()
    ]
    return float(torch.stack(sizes).mean())


def measure(tasks: list[str], scale: float, steps: int, root: Path) -> list[dict[str, Any]]:
    """One row a task."""
    config = composed(scale, steps)
    spec = ClipSpec(**{key: config["model"][key] for key in ("name", "base", "revision")})
    suite, plan = parse_suite(config["suite"]), parse_plan(config["finetune"])
    trainer = {**config["trainer"], "enable_progress_bar": False}
    options = {"cache_dir": Path(config["paths"]["cache_dir"]), "force": False}
    clip, rows = load_clip(spec), []
    for task, found in finetune_tasks(spec, suite, tasks, plan, root, trainer, **options):
        assert found is not None
        rows.append({"task": task, "scale": scale, **found, "update_size": update_size(clip, root / task)})
        numbers = f"{found['zero_shot']:>10.2f} {found['finetuned']:>10.2f} {rows[-1]['update_size']:>8.3f}"
        print(f"{task:>15} {scale:>8g} {numbers}", flush=True)
    return rows


def main() -> None:
    """Print the table and write it as JSON."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    cfg: Any = chosen(DEFAULTS)
    made = describe_machine()  # before anything is run, so that it tells the code that ran
    print(f"{'task':>15} {'scale':>8} {'zero-shot':>10} {'fine-tuned':>10} {'|dW|/|W|':>8}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for scale in cfg.scales:
            rows += measure(list(cfg.tasks), scale, cfg.steps, Path(name) / str(scale))
    machine = {"processor": platform.machine(), "threads": torch.get_num_threads(), **made["machine"]}
    del machine["host"]
    content = {
        "settings": {"recipe": "conf/finetune/lora.yaml", "steps": cfg.steps},
        "results": rows,
        "commit": made["commit"],
        "python": made["python"],
        "versions": made["versions"],
        "machine": machine,
    }
    out = Path(cfg.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=2) + "\n")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
