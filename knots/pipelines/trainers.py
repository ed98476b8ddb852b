"""A trainer of Lightning that scores or only says on which device: it writes nothing and shows no bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException

from knots.errors import KnotsError
from knots.processes import cluster_environment


def quiet_trainer(options: Mapping[str, Any], callbacks: Sequence[L.Callback] = ()) -> L.Trainer:
    """A trainer in precision 32 that leaves the sampling of items to their loaders.

    Args:
        options: of `lightning.Trainer`: accelerator, devices and the like.
        callbacks: what looks on.

    Raises:
        KnotsError: Lightning refuses the options.
    """
    try:
        return L.Trainer(
            **options,
            precision="32-true",
            logger=False,
            callbacks=list(callbacks),
            plugins=[cluster_environment()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise KnotsError(f"trainer={dict(options)}: {error}") from error
