"""How Lightning finds the processes of a run: Slurm's, where a step of Slurm started them, else its own."""

from __future__ import annotations

import os

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment


def cluster_environment() -> ClusterEnvironment:
    """The environment for `lightning.Trainer`'s plugins.

    Left to itself, Lightning puts jobs of Slurm back into the queue, beside whoever submitted them.
    """
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if _is_slurm_step():
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


def _is_slurm_step() -> bool:
    """Whether `srun` started this process as one of a job; a shell that it opened is no job."""
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        return True
    interactive = SLURMEnvironment.job_name() in ("bash", "interactive")
    return "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1 and not interactive
