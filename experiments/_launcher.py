"""Hydra's launcher for Slurm: submits a sweep and returns, so that the login node is free again.

The launcher of hydra-submitit-launcher waits for all jobs, and sends each the pickled state of this process.
Here submitit submits the same array, but a job is the name of an entry point and its overrides.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
from omegaconf import DictConfig, OmegaConf

OTHER = "other"


class SlurmSweeps(SlurmLauncher):  # type: ignore[misc]
    """Submits every job of a sweep as one array a set of resources, writes the manifest and returns."""

    # Hydra takes plugins of this package only, wherever their code is.
    __module__ = "hydra_plugins.knots"

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit jobs; they have hardly begun when this returns.

        Raises:
            KnotsError: Slurm is not there, or refuses jobs, which `sweep.py resubmit` submits again.
        """
        from experiments._cli import say
        from experiments._sweeps import Sweep

        del initial_job_idx
        assert self.config is not None
        config = self.config
        wanted = [list(filter_overrides(overrides)) for overrides in job_overrides]
        asked = [self._parameters(overrides) for overrides in wanted]
        folder = Path(str(config.hydra.sweep.dir)).absolute()
        sweep = Sweep.open_or_make(folder, str(config.hydra.job.config_name))
        sweep.add(list(zip(wanted, asked, strict=True)))
        sweep.submit()
        names = ", ".join(sorted({entry.ids[-1].partition("_")[0] for entry in sweep.jobs}))
        count = "1 job" if len(wanted) == 1 else f"{len(wanted)} jobs"
        say(
            f"submitted {count} of {sweep.entry} to Slurm ({names}): {folder}\n"
            "uv run experiments/sweep.py status shows how far they are; this terminal is no longer needed",
            sys.stdout,
        )
        return [JobReturn(overrides=one, status=JobStatus.COMPLETED) for one in wanted]

    def _parameters(self, overrides: list[str]) -> dict[str, Any]:
        """What a job asks of the cluster, by the model that it is of."""
        assert self.hydra_context is not None
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        launcher = OmegaConf.to_container(composed.hydra.launcher, resolve=True)
        assert isinstance(launcher, dict)
        given = {str(key): value for key, value in launcher.items() if key != "_target_"}
        parallel = OmegaConf.select(composed, "trainer.strategy") == "ddp"
        return resources(given, model_of(composed), one_process_a_gpu=parallel)


def model_of(config: DictConfig) -> str:
    """The name of the model that a job is of; of an experiment, the one that its runs have in common."""
    name = OmegaConf.select(config, "model.name")
    if name is not None:
        return str(name)
    common = OmegaConf.select(config, "experiment.common") or ()
    named = [str(one).partition("=")[2] for one in common if str(one).startswith("model=")]
    return named[-1] if named else OTHER


def resources(given: Mapping[str, Any], model: str, *, one_process_a_gpu: bool) -> dict[str, Any]:
    """What a job asks for: what was given, and for what was not, what its model needs.

    Args:
        given: the launcher's keys.
        model: the model's name.
        one_process_a_gpu: whether as many processes run as there are GPUs, where their number is not given.

    Raises:
        KnotsError: `needs` names a key that the launcher does not have.
    """
    from knots.errors import KnotsError, unknown

    kept = {key: value for key, value in given.items() if key != "needs"}
    needs = given.get("needs") or {}
    for key, value in (needs.get(model) or needs.get(OTHER) or {}).items():
        if key not in kept:
            raise unknown(f"key of hydra.launcher.needs.{model}:", key, kept)
        if kept[key] is None:
            kept[key] = value
    gpus = kept.get("gpus_per_node")
    if kept.get("tasks_per_node") is None:
        kept["tasks_per_node"] = max(1, int(gpus or 0)) if one_process_a_gpu else 1
    if not kept.get("timeout_min"):
        raise KnotsError("hydra.launcher.timeout_min is needed: minutes after which a job is stopped")
    kept["gpus_per_node"] = gpus or None
    return {key: value for key, value in kept.items() if value is not None}


def register() -> None:
    """Make the launcher known to Hydra under its `_target_`, from where Hydra imports it by name."""
    sys.modules[SlurmSweeps.__module__] = sys.modules[__name__]
    Plugins.instance().register(SlurmSweeps)
