"""What is evaluated: a merge, the base as it is, the fine-tuned models, or what else a merge is measured by.

A predictor only says which adapters stand on the base while a task's items go through it. One
adapter is attached as it is; several run beside the base in one batched pass, and the score of a
class is the largest of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from knots.adapters import Adapter
from knots.errors import KnotsError

Plan = tuple[tuple[Adapter, ...], ...]
"""For each task of the suite the adapters that its items are scored with."""


class Predictor(Protocol):
    """Anything that `evaluate` takes."""

    kind: ClassVar[str]

    def plan(self, tasks: Sequence[str], device: torch.device) -> Plan:
        """The adapters for each task; called once, on the device of the evaluation."""
        ...


@dataclass(frozen=True, eq=False)
class Merged:
    """One merged adapter for all tasks.

    Attributes:
        adapter: the adapter, or a function that merges on a device and returns it.
    """

    adapter: Adapter | Callable[[torch.device], Adapter]

    kind: ClassVar[str] = "merged"

    def plan(self, tasks: Sequence[str], device: torch.device) -> Plan:
        """The same adapter for every task, merged now if it is not there yet."""
        merged = self.adapter if isinstance(self.adapter, Adapter) else self.adapter(device)
        return ((merged,),) * len(tasks)


@dataclass(frozen=True, eq=False)
class Single:
    """One task's adapter alone on all tasks: merging must beat the best of them.

    Attributes:
        adapter: the adapter.
    """

    adapter: Adapter

    kind: ClassVar[str] = "single"

    def plan(self, tasks: Sequence[str], device: torch.device) -> Plan:
        """The same adapter for every task."""
        del device
        return ((self.adapter,),) * len(tasks)


@dataclass(frozen=True, eq=False)
class Multitask(Single):
    """One adapter that was trained on all tasks jointly: what a merge would be, had it all their data."""

    kind: ClassVar[str] = "multitask"


@dataclass(frozen=True, eq=False)
class Ensemble:
    """All fine-tuned models at once; a class scores the maximum over their cosine scores.

    Attributes:
        adapters: the T adapters.
    """

    adapters: Sequence[Adapter]

    kind: ClassVar[str] = "ensemble"

    def plan(self, tasks: Sequence[str], device: torch.device) -> Plan:
        """All adapters for every task.

        Raises:
            KnotsError: there is no adapter.
        """
        del device
        if not self.adapters:
            raise KnotsError("an ensemble needs at least one adapter")
        return (tuple(self.adapters),) * len(tasks)


@dataclass(frozen=True, eq=False)
class ZeroShot:
    """The base as it is."""

    kind: ClassVar[str] = "zero_shot"

    def plan(self, tasks: Sequence[str], device: torch.device) -> Plan:
        """No adapter for any task."""
        del device
        return ((),) * len(tasks)


@dataclass(frozen=True, eq=False)
class Finetuned:
    """Each task by its own adapter; over the joint labels an oracle, for it is told every item's task.

    Attributes:
        adapters: one adapter a task, in the order of the suite.
    """

    adapters: Sequence[Adapter]

    kind: ClassVar[str] = "finetuned"

    def plan(self, tasks: Sequence[str], device: torch.device) -> Plan:
        """Its own adapter for every task.

        Raises:
            KnotsError: there are not as many adapters as tasks.
        """
        del device
        if len(self.adapters) != len(tasks):
            raise KnotsError(f"{len(tasks)} tasks need as many adapters, got {len(self.adapters)}")
        return tuple((adapter,) for adapter in self.adapters)


@dataclass(frozen=True, eq=False)
class Router(Finetuned):
    """Each image by the adapter of the task that it looks most like to the base; see `routing`.

    Nobody says what task an image is of. Images only.
    """

    kind: ClassVar[str] = "router"
