"""Which base and whose adapters, checked: from the plain values of a model's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from knots.errors import KnotsError, unknown
from knots.models.families import FAMILIES, Spec
from knots.models.text import TextSpec
from knots.pipelines.values import choice, text

PRECISIONS = ("32", "bf16", "16")
MODEL_KEYS = (
    *("name", "family", "base", "revision", "adapters", "updates", "spelling"),
    *("default_suite", "default_finetune", "default_precision"),
)
"""Keys of models of every family; a family adds its own."""

UPDATES = ("lora", "full")


@dataclass(frozen=True)
class ModelPlan:
    """Which base and whose adapters.

    Attributes:
        name: how the model is called in tables.
        family: a key of `FAMILIES`.
        base: folder, `asset:` path or hub id.
        revision: of a hub id; None is its main branch.
        adapters: folder, `asset:` path or hub id, with `{task}` for the task's name.
        text: who embeds prompts; None is the base's own text tower. Of a CLIP only.
        updates: "lora" for PEFT adapters, "full" for whole models whose difference to the base is taken.
        spelling: task -> what `{task}` becomes, where that is not the task's own name.
        heads: path or URL of a file with the tasks' heads; None where the adapters have them. Of a
            classifier only.
        pretrained: an adapter that stands for the base and must be a zero update. Of a classifier only.
        precision: what `precision=auto` means for this model.
    """

    name: str
    family: str
    base: str
    revision: str | None
    adapters: str
    text: TextSpec | None = None
    updates: str = "lora"
    spelling: Mapping[str, str] = field(default_factory=dict)
    heads: str | None = None
    pretrained: str | None = None
    precision: str = "32"

    @property
    def spec(self) -> Spec:
        """What loads the base."""
        family = FAMILIES[self.family]
        own = {key: getattr(self, key) for key in family.options}
        return family.spec(self.name, self.base, self.revision, **own)

    def adapter_of(self, task: str) -> str:
        """Where a task's adapter is."""
        return self.adapters.replace("{task}", self.spelling.get(task, task))


def parse_model(model: Mapping[str, Any], adapters: str | None = None) -> ModelPlan:
    """Read the configuration of a model.

    Args:
        model: plain values with the keys of a file in `conf/model/`.
        adapters: replaces the model's own pattern.

    Raises:
        KnotsError: a key or name is unknown, a value has the wrong type, or the pattern has no `{task}`.
    """
    family = choice("model.family", model["family"], FAMILIES)
    known = (*MODEL_KEYS, *FAMILIES[family].options)
    for key in model:
        if key not in known:
            raise unknown(f"key of a model of family {family!r}:", key, known)
    pattern = (
        text("adapters", adapters) if adapters is not None else text("model.adapters", model["adapters"])
    )
    if "{task}" not in pattern:
        raise KnotsError(f"adapters={pattern!r} has no {{task}}, where each task's own name goes")
    revision, updates = model["revision"], choice("model.updates", model.get("updates", "lora"), UPDATES)
    if updates == "full" and family != "clip":
        raise KnotsError(f"model.updates='full' is for models of family 'clip', not {family!r}; use lora")
    return ModelPlan(
        name=text("model.name", model["name"]),
        family=family,
        base=text("model.base", model["base"]),
        revision=None if revision is None else str(revision),
        adapters=pattern,
        text=None if model.get("text") is None else _parse_text(model["text"]),
        updates=updates,
        spelling=dict(model.get("spelling") or {}),
        **{key: _text_or_none(f"model.{key}", model.get(key)) for key in ("heads", "pretrained")},
        precision=choice("model.default_precision", str(model.get("default_precision", "32")), PRECISIONS),
    )


def _text_or_none(where: str, value: object) -> str | None:
    return None if value is None else text(where, value)


def _parse_text(tower: object) -> TextSpec:
    if not isinstance(tower, Mapping) or set(tower) != {"open_clip", "weights"}:
        raise KnotsError(f"model.text={tower!r}; null, or a mapping with open_clip and weights, is needed")
    return TextSpec(*(text(f"model.text.{key}", tower[key]) for key in ("open_clip", "weights")))
