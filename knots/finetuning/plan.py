"""How a tower is trained, checked: from plain values to a frozen plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from knots.errors import KnotsError, unknown
from knots.training import parse_options

KINDS = ("lora", "full")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class FinetuningPlan:
    """How one task's training goes.

    Attributes:
        kind: "lora" (two thin factors a module) or "full" (every weight of the vision tower).
        rank: of every module's update; alpha equals it, so updates are not scaled. None for "full".
        dropout: of the inputs of A; 0 for "full".
        modules: the linear modules that get an update, by the end of their names; empty for "full".
        steps: the most optimizer steps, of `batch_size` pictures each.
        learning_rate: the highest one, after `warmup` steps; a cosine leads it to zero.
        weight_decay: AdamW's.
        validate_every: steps between two looks at the validation split.
        patience: looks without a gain of more than `min_delta` after which training stops.
        min_delta: what an accuracy must gain to count for `patience`, as a fraction.
        scale: what the cosines are multiplied by to be logits.
        shift: the most pixels by which a batch is shifted, as augmentation.
        seed: of the shared A, the order of the pictures and dropout; the same for every task.
        precision: Lightning's: "32-true", or "16-mixed" and "bf16-mixed", in which the weights stay float32.
        gradient_checkpointing: compute activations twice instead of keeping them; the same gradients.
        dtype: of the saved numbers.
    """

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
    scale: float
    shift: int
    seed: int
    precision: str
    gradient_checkpointing: bool
    dtype: str


def parse_plan(config: Mapping[str, Any]) -> FinetuningPlan:
    """Read a plan from plain values.

    Args:
        config: the fields of `FinetuningPlan`; `learning_rate` may be a mapping from rank to number.

    Raises:
        KnotsError: a key is unknown, absent or out of range, or the learning rates have none for the rank.
    """
    values = dict(config)
    if "modules" in values:
        values["modules"] = _modules(values["modules"])
    if isinstance(values.get("learning_rate"), Mapping):
        values["learning_rate"] = _rate_of(values["learning_rate"], values.get("rank"))
    plan = parse_options(FinetuningPlan, values, "finetune")
    _check_kind(plan)
    for key, known in (("precision", PRECISIONS), ("dtype", DTYPES)):
        if getattr(plan, key) not in known:
            raise unknown(f"finetune.{key}", str(getattr(plan, key)), known)
    if not isinstance(plan.gradient_checkpointing, bool):
        raise KnotsError(f"finetune.gradient_checkpointing={plan.gradient_checkpointing!r}; true or false")
    for key in ("steps", "batch_size", "validate_every", "patience"):
        if getattr(plan, key) < 1:
            raise KnotsError(f"finetune.{key} must be at least 1, got {getattr(plan, key)}")
    return plan


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


def _check_kind(plan: FinetuningPlan) -> None:
    """What LoRA needs, a full fine-tune must not have."""
    if plan.kind not in KINDS:
        raise unknown("finetune.kind", str(plan.kind), KINDS)
    if plan.kind == "full":
        for key, nothing in (("rank", None), ("modules", ()), ("dropout", 0)):
            if getattr(plan, key) != nothing:
                raise KnotsError(
                    f"finetune.{key}={getattr(plan, key)!r} is for LoRA; a full fine-tune trains every "
                    "weight of the tower (rank null, modules [], dropout 0)"
                )
        return
    if isinstance(plan.rank, bool) or not isinstance(plan.rank, int):
        raise KnotsError(f"finetune.rank must be a whole number, got {plan.rank!r}")
    if plan.rank < 1:
        raise KnotsError(f"finetune.rank must be at least 1, got {plan.rank}")
    if not plan.modules:
        raise KnotsError("finetune.modules is empty; name the linear modules, as [q_proj,v_proj]")
