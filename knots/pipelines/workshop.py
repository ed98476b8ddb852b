"""What runs on one model share: base, adapters, readings, heads; each part loaded when it is first needed."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from knots.adapters import Adapter, is_zero_update, load_adapter
from knots.errors import KnotsError
from knots.merging import Prepared
from knots.models.bases import Base, find_base
from knots.models.clip import Clip
from knots.models.families import FAMILIES, Model
from knots.models.full import load_finetuned
from knots.models.heads import Heads, build_heads
from knots.models.task_heads import task_heads
from knots.models.text import text_identity
from knots.pipelines.model_plan import ModelPlan
from knots.suites.data import DataOptions, Reading
from knots.suites.tasks import Suite
from knots.suites.texts import TextReading

DTYPES = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}

Part = TypeVar("Part")


class Workshop:
    """What runs on one model and suite share.

    Args:
        model: base and adapters.
        suite: the tasks.
        precision: of the base, "32", "bf16" or "16".
        data: how pictures are read.
        cache_dir: root of the caches.
        keeps: whether merges serve one another (see `Prepared`); False for a single one.
    """

    def __init__(
        self,
        model: ModelPlan,
        suite: Suite,
        *,
        precision: str,
        data: DataOptions,
        cache_dir: Path,
        keeps: bool = True,
    ) -> None:
        self.plan, self.suite = model, suite
        self.precision, self.data, self.cache_dir = precision, data, cache_dir
        self.keeps = keeps
        self._parts: dict[str, Any] = {}
        self._class_heads: Heads | None = None

    def over(self, suite: Suite) -> Workshop:
        """One for other tasks of the same model; what does not depend on the tasks is shared."""
        if suite == self.suite:
            return self
        other = copy(self)
        other.suite, other._class_heads = suite, None
        for name in ("adapters", "prepared", "task_heads"):
            other.__dict__.pop(name, None)
        return other

    def _part(self, name: str, load: Callable[[], Part]) -> Part:
        if name not in self._parts:
            self._parts[name] = load()
        part: Part = self._parts[name]
        return part

    @cached_property
    def adapters(self) -> list[Adapter]:
        """One adapter a task, in the suite's order.

        Raises:
            KnotsError: one cannot be loaded, or what stands for the base is not the base.
        """
        if self.plan.pretrained is not None:
            self._part("zero", lambda: check_zero(self.plan.pretrained))
        names = self.suite.task_names
        return [self._part(f"adapter {task}", partial(self._adapter, task)) for task in names]

    def _adapter(self, task: str) -> Adapter:
        return self.load(self.plan.adapter_of(task), task)

    def load(self, place: str, name: str) -> Adapter:
        """An adapter of the model's kind from any place, which is not kept.

        Raises:
            KnotsError: it cannot be loaded.
        """
        if self.plan.updates == "full":
            assert isinstance(self.model, Clip)
            return load_finetuned(place, self.model, name=name)
        return load_adapter(place, name=name)

    @property
    def multitask(self) -> Adapter:
        """The adapter that was trained on all tasks jointly; the model must name one.

        Raises:
            KnotsError: it cannot be loaded.
        """
        place = self.plan.multitask_place
        assert place is not None
        return self._part("multitask", lambda: self.load(place, "multitask"))

    @cached_property
    def prepared(self) -> Prepared:
        """The adapters, to be merged again and again."""
        return Prepared(self.adapters, keeps=self.keeps)

    @property
    def base(self) -> Base:
        """Where the base is, and what tells it from others."""
        return self._part("base", lambda: find_base(self.plan.base, self.plan.revision))

    @property
    def text(self) -> dict[str, str] | None:
        """What tells the text tower from others, where it is not the base's own."""
        tower = self.plan.text
        return None if tower is None else self._part("text", lambda: text_identity(tower))

    @property
    def reading(self) -> Reading | TextReading:
        """How items become what the base takes."""
        return self._part("reading", lambda: FAMILIES[self.plan.family].reading(self.base, self.data))

    @property
    def model(self) -> Model:
        """The base in its precision."""
        load = FAMILIES[self.plan.family].load
        return self._part("model", lambda: load(self.plan.spec, self.base, DTYPES[self.precision]))

    @cached_property
    def task_heads(self) -> list[Tensor] | None:
        """Each task's own head, where tasks bring one; of images the class names make them."""
        if self.suite.modality == "vision":
            return None
        return task_heads(self.adapters, self.plan.heads, self.cache_dir)

    def class_heads(self, device: torch.device) -> Heads:
        """Class features of every task and of their union; embedded on `device` if they are not cached."""
        if self._class_heads is None:
            assert isinstance(self.model, Clip)
            self._class_heads = build_heads(self.model, self.suite, self.cache_dir, device)
        return self._class_heads


def check_zero(pretrained: str | None) -> None:
    """Refuse an adapter that stands for the base and is not the base.

    Raises:
        KnotsError: it is no zero update, or cannot be loaded.
    """
    if pretrained is not None and not is_zero_update(pretrained):
        raise KnotsError(
            f"model.pretrained={pretrained!r} is no zero update: the adapters would be changes from it, not "
            "from the base; set model.pretrained=null if they are changes from the base"
        )
