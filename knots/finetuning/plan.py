"""How one task's training goes, checked: from plain values to a frozen plan.

What all recipes say stands in `FinetuningPlan`; each modality adds its own keys and kinds. A recipe is one of
the modality whose keys it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from knots.errors import KnotsError, unknown
from knots.training import SCHEDULES, parse_options

LORA = "lora"
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
BASE_PRECISIONS = ("32", "bf16")
DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class FinetuningPlan:
    """What every training needs to know.

    Attributes:
        kind: "lora" (two thin factors a module) or another of `kinds`.
        rank: of every module's update; alpha equals it, so updates are not scaled. None without LoRA.
        dropout: of the inputs of A; 0 without LoRA.
        modules: the linear modules that get an update, by the end of their names; empty without LoRA.
        steps: the most optimizer steps.
        batch_size: items that a gradient is computed from at once.
        learning_rate: the highest one, after `warmup` steps.
        warmup: steps in which the learning rate rises on a line.
        weight_decay: AdamW's.
        validate_every: steps between two looks at the validation split.
        patience: looks without a gain of more than `min_delta` after which training stops.
        min_delta: what an accuracy must gain to count for `patience`, as a fraction.
        seed: of what training starts from, the order of the items and dropout; the same for every task.
        precision: Lightning's: "32-true", or "16-mixed" and "bf16-mixed", in which what is trained stays
            float32.
        gradient_checkpointing: compute activations twice instead of keeping them; the same gradients.
        dtype: of the saved numbers.
    """

    modality: ClassVar[str]
    kinds: ClassVar[Mapping[str, str]]
    """What there is beside LoRA, and what it trains."""

    kind: str
    rank: int | None
    dropout: float
    modules: tuple[str, ...]
    steps: int
    batch_size: int
    learning_rate: float
    warmup: int
    weight_decay: float
    validate_every: int
    patience: int
    min_delta: float
    seed: int
    precision: str
    gradient_checkpointing: bool
    dtype: str


@dataclass(frozen=True)
class VisionPlan(FinetuningPlan):
    """How the vision tower of a CLIP is trained; a cosine leads the learning rate to zero.

    Attributes:
        scale: what the cosines are multiplied by to be logits.
        shift: the most pixels by which a batch is shifted, as augmentation.
    """

    modality: ClassVar[str] = "vision"
    kinds: ClassVar[Mapping[str, str]] = {"full": "a full fine-tune trains every weight of the tower"}

    scale: float
    shift: int


@dataclass(frozen=True)
class LanguagePlan(FinetuningPlan):
    """How a decoder and a head on its last token are trained.

    Attributes:
        schedule: how the learning rate falls to zero after its warm-up, "linear" or "cosine".
        accumulate: batches that make up one optimizer step.
        base_precision: of the frozen weights of the base, "32" or "bf16"; LoRA and head are float32.
    """

    modality: ClassVar[str] = "language"
    kinds: ClassVar[Mapping[str, str]] = {"head": "kind head trains the head and nothing else"}

    schedule: str
    accumulate: int
    base_precision: str


PLANS: tuple[type[FinetuningPlan], ...] = (VisionPlan, LanguagePlan)


def parse_plan(config: Mapping[str, Any]) -> FinetuningPlan:
    """Read a plan from plain values.

    Args:
        config: the fields of `VisionPlan` or of `LanguagePlan`; `learning_rate` may be a mapping from rank to
            number, and `warmup` a share of the steps, below 1.

    Raises:
        KnotsError: a key is unknown, absent, of another modality than the others or out of range, or the
            learning rates have none for the rank.
    """
    which = _modality(config)
    values = dict(config)
    if "modules" in values:
        values["modules"] = _modules(values["modules"])
    if isinstance(values.get("learning_rate"), Mapping):
        values["learning_rate"] = _rate_of(values["learning_rate"], values.get("rank"))
    if isinstance(values.get("warmup"), float):
        values["warmup"] = _warmup(values["warmup"], values.get("steps"))
    if "base_precision" in values:
        values["base_precision"] = str(values["base_precision"])  # YAML reads 32 as a number
    plan = parse_options(which, values, "finetune")
    _check_kind(plan)
    _check_values(plan)
    return plan


def _modality(config: Mapping[str, Any]) -> type[FinetuningPlan]:
    """The kind of plan that most of the keys of one modality are of; the other's have no place there."""
    own = {which: _own_keys(which) for which in PLANS}
    chosen = max(PLANS, key=lambda which: len(own[which] & config.keys()))
    for which in PLANS:
        for key in config:
            if which is not chosen and key in own[which]:
                raise KnotsError(
                    f"finetune.{key} is for {which.modality}, but the recipe is one for {chosen.modality}"
                )
    return chosen


def _own_keys(which: type[FinetuningPlan]) -> set[str]:
    return {field.name for field in fields(which)} - {field.name for field in fields(FinetuningPlan)}


def _modules(given: object) -> tuple[str, ...]:
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        raise KnotsError(f"finetune.modules={given!r}; a list of names is needed, as [q_proj,v_proj]")
    return tuple(given)


def _rate_of(rates: Mapping[Any, Any], rank: object) -> Any:
    """The learning rate of a rank."""
    if rank in rates:
        return rates[rank]
    known = ", ".join(str(key) for key in rates)
    raise KnotsError(
        f"finetune.learning_rate has no number for rank {rank} (it has some for {known}); "
        "set one with finetune.learning_rate=<number>"
    )


def _warmup(share: float, steps: object) -> Any:
    """Steps of warm-up; what does not fit is left for others to complain about."""
    if not 0 <= share < 1:
        raise KnotsError(
            f"finetune.warmup={share}; a whole number of steps, or a share of them below 1, is needed"
        )
    return round(share * steps) if isinstance(steps, int) else 0


def _check_kind(plan: FinetuningPlan) -> None:
    """What LoRA needs, other kinds must not have."""
    if plan.kind not in (LORA, *plan.kinds):
        raise unknown("finetune.kind", str(plan.kind), (LORA, *plan.kinds))
    if plan.kind != LORA:
        for key, nothing in (("rank", None), ("modules", ()), ("dropout", 0)):
            if getattr(plan, key) != nothing:
                raise KnotsError(
                    f"finetune.{key}={getattr(plan, key)!r} is for LoRA; {plan.kinds[plan.kind]} "
                    "(rank null, modules [], dropout 0)"
                )
        return
    if isinstance(plan.rank, bool) or not isinstance(plan.rank, int):
        raise KnotsError(f"finetune.rank must be a whole number, got {plan.rank!r}")
    if plan.rank < 1:
        raise KnotsError(f"finetune.rank must be at least 1, got {plan.rank}")
    if not plan.modules:
        raise KnotsError("finetune.modules is empty; name the linear modules, as [q_proj,v_proj]")


def _check_values(plan: FinetuningPlan) -> None:
    choices: dict[str, tuple[str, ...]] = {"precision": PRECISIONS, "dtype": DTYPES}
    counts = ["steps", "batch_size", "validate_every", "patience"]
    if isinstance(plan, LanguagePlan):
        choices |= {"base_precision": BASE_PRECISIONS, "schedule": tuple(SCHEDULES)}
        counts.append("accumulate")
    for key, known in choices.items():
        if getattr(plan, key) not in known:
            raise unknown(f"finetune.{key}", str(getattr(plan, key)), known)
    if not isinstance(plan.gradient_checkpointing, bool):
        raise KnotsError(f"finetune.gradient_checkpointing={plan.gradient_checkpointing!r}; true or false")
    for key in counts:
        if getattr(plan, key) < 1:
            raise KnotsError(f"finetune.{key} must be at least 1, got {getattr(plan, key)}")
