"""Which base and whose adapters, checked: from the plain values of a model's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from knots.errors import KnotsError, unknown
from knots.models.families import FAMILIES, Spec
from knots.models.text import TextSpec
from knots.pipelines.values import choice, text, whole

PRECISIONS = ("32", "bf16", "16")
MODEL_KEYS = (
    *("name", "family", "base", "revision", "adapters", "updates", "spelling"),
    *("default_suite", "default_finetune", "default_precision"),
    *("universes", "own_init", "multitask"),
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
        adapters: folder, `asset:` path or hub id, with `{task}` for the task's name and, where there are
            several sets that were trained independently, `{universe}` for the set's number.
        text: who embeds prompts; None is the base's own text tower. Of a CLIP only.
        updates: "lora" for PEFT adapters, "full" for whole models whose difference to the base is taken.
        spelling: task -> what `{task}` becomes, where that is not the task's own name.
        heads: path or URL of a file with the tasks' heads; None where the adapters have them. Of a
            classifier only.
        pretrained: an adapter that stands for the base and must be a zero update. Of a classifier only.
        precision: what `precision=auto` means for this model.
        universe: which set of adapters; None where there is one.
        multitask: one adapter that was trained on all tasks jointly: as `adapters`, without `{task}`; None
            where there is none.
        own_init: task -> the universe whose adapter it takes, so that no two tasks of a set started from the
            same factors; empty where all of a set did (or nothing is known of it).
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
    universe: int | None = None
    own_init: Mapping[str, int] = field(default_factory=dict)
    multitask: str | None = None

    @property
    def shared_init(self) -> bool:
        """Whether all adapters of a set started from the same factors, as far as the model's file says."""
        return not self.own_init

    @property
    def spec(self) -> Spec:
        """What loads the base."""
        family = FAMILIES[self.family]
        own = {key: getattr(self, key) for key in family.options}
        return family.spec(self.name, self.base, self.revision, **own)

    def adapter_of(self, task: str) -> str:
        """Where a task's adapter is.

        Raises:
            KnotsError: adapters with initial factors of their own are asked for, and the task has none.
        """
        place = self.adapters.replace("{task}", self.spelling.get(task, task))
        if self.universe is None:
            return place
        if self.own_init and task not in self.own_init:
            raise unknown("task with shared_init=false:", task, self.own_init)
        return place.replace("{universe}", str(self.own_init.get(task, self.universe)))

    @property
    def multitask_place(self) -> str | None:
        """Where the adapter that was trained on all tasks jointly is; None where there is none."""
        if self.multitask is None or self.universe is None:
            return self.multitask
        return self.multitask.replace("{universe}", str(self.universe))


def parse_model(
    model: Mapping[str, Any],
    adapters: str | None = None,
    *,
    universe: object = None,
    shared_init: bool = True,
) -> ModelPlan:
    """Read the configuration of a model.

    Args:
        model: plain values with the keys of a file in `conf/model/`.
        adapters: replaces the model's own pattern.
        universe: which set of adapters, where there are several; None is the first.
        shared_init: False takes adapters that did not start from the same factors.

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
        heads=_text_or_none("model.heads", model.get("heads")),
        pretrained=_text_or_none("model.pretrained", model.get("pretrained")),
        multitask=_text_or_none("model.multitask", model.get("multitask")),
        precision=choice("model.default_precision", str(model.get("default_precision", "32")), PRECISIONS),
        **_parse_universe(model, pattern, universe, shared_init, own=adapters is None),
    )


def _parse_universe(
    model: Mapping[str, Any], pattern: str, universe: object, shared_init: bool, *, own: bool
) -> dict[str, Any]:
    """Which of several sets of adapters; `own`: those of the model, whose number is known."""
    name = model["name"]
    if "{universe}" not in pattern:
        if universe is not None or not shared_init:
            asked = f"universe={universe}" if universe is not None else "shared_init=false"
            raise KnotsError(
                f"{asked}: adapters={pattern!r} is one set; name several with {{universe}} in the pattern"
            )
        return {}
    number = 0 if universe is None else whole("universe", universe, least=0)
    known = model.get("universes")
    if own and known is not None and number >= known:
        raise KnotsError(f"universe={number}; model {name!r} has universes 0 to {known - 1}")
    if shared_init:
        return {"universe": number}
    given = model.get("own_init") or {}
    if not given or any(number >= len(row) for row in given.values()):
        raise KnotsError(
            f"shared_init=false, universe={number}: model.own_init of {name!r} names no adapters for it; it "
            "holds, for each task, the universes that its adapters are taken of"
        )
    return {"universe": number, "own_init": {str(task): int(row[number]) for task, row in given.items()}}


def _text_or_none(where: str, value: object) -> str | None:
    return None if value is None else text(where, value)


def _parse_text(tower: object) -> TextSpec:
    if not isinstance(tower, Mapping) or set(tower) != {"open_clip", "weights"}:
        raise KnotsError(f"model.text={tower!r}; null, or a mapping with open_clip and weights, is needed")
    return TextSpec(*(text(f"model.text.{key}", tower[key]) for key in ("open_clip", "weights")))
