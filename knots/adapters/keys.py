"""The names in an adapter's weight file: which tensor is a factor of which module, which is a head's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from knots.adapters.config import MERGE_IT, RETRAIN
from knots.errors import KnotsError

WRAPPER = "base_model.model."
TOWER = "vision_model."

_FACTOR = re.compile(r"(?P<module>.+?)\.lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.weight")
_SAVED_COPY = re.compile(r"\.modules_to_save(\.[^.]+)?(?=\.)")
_PLAIN_HEADS = frozenset({"score", "classifier"})
_BACKBONE = re.compile(r"norm|embed|^ln_")

# Tensors of LoRA variants, by what their names contain; the config normally says so already.
_VARIANTS: tuple[tuple[str, str, str], ...] = (
    ("lora_magnitude_vector", "DoRA rescales every row of the updated weight", MERGE_IT),
    ("lora_embedding_", "LoRA on an embedding is not a linear module's B @ A", MERGE_IT),
    ("lora_diag", "KaSA puts a diagonal between the factors", MERGE_IT),
    ("lora_B.bias", "lora_B has a bias, which is not part of dW", RETRAIN),
    ("lora_B.default.bias", "lora_B has a bias, which is not part of dW", RETRAIN),
    ("trainable_tokens", "rows of the embedding were trained too", MERGE_IT),
    ("token_adapter", "rows of the embedding were trained too", MERGE_IT),
)


@dataclass(frozen=True)
class Parts:
    """An adapter's tensors, sorted out.

    Attributes:
        prefix: what stood between `base_model.model.` and every module name: "vision_model." or "".
        factors: module name without prefix -> (lora_A [R, I], lora_B [O, R]).
        heads: normalized name -> tensor.
    """

    prefix: str
    factors: Mapping[str, tuple[Tensor, Tensor]]
    heads: Mapping[str, Tensor]


def sort_out(tensors: Mapping[str, Tensor], modules_to_save: Iterable[str], adapter: str) -> Parts:
    """Tell factors and heads apart and normalize their names.

    Dropped: a leading `base_model.model.`, the adapter's name after lora_A and lora_B, `.base_layer`, and
    `vision_model.` where every module has it (an adapter of two towers keeps the names that tell them apart).

    Args:
        tensors: the weight file.
        modules_to_save: the config's list of modules trained in full.
        adapter: the adapter's name, for messages.

    Raises:
        KnotsError: no factors, half a pair, two adapters in one file, a variant's tensors, or unknown keys.
    """
    sides: dict[str, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    for key, tensor in sorted(tensors.items()):
        path = key.removeprefix(WRAPPER)
        match = _FACTOR.fullmatch(path)
        if match is None:
            rest[path] = tensor
            continue
        pair = sides.setdefault(match["module"].replace(".base_layer", ""), {})
        if match["side"] in pair:
            raise KnotsError(f"adapter {adapter!r}: two lora_{match['side']} for {match['module']!r}")
        pair[match["side"]] = tensor
    heads = _heads(rest, set(sides), tuple(modules_to_save), adapter)
    if not sides:
        raise KnotsError(f"adapter {adapter!r} is empty: its weight file holds no lora_A and lora_B")
    prefix = TOWER if all(module.startswith(TOWER) for module in sides) else ""
    factors = {module.removeprefix(prefix): _pair(module, pair, adapter) for module, pair in sides.items()}
    return Parts(prefix, factors, heads)


def _pair(module: str, pair: Mapping[str, Tensor], adapter: str) -> tuple[Tensor, Tensor]:
    for present, absent in (("A", "B"), ("B", "A")):
        if absent not in pair:
            raise KnotsError(f"adapter {adapter!r}, module {module!r}: lora_{present} without lora_{absent}")
    return pair["A"], pair["B"]


def _heads(
    rest: Mapping[str, Tensor], modules: set[str], modules_to_save: tuple[str, ...], adapter: str
) -> dict[str, Tensor]:
    """What is left beside the factors: heads, and frozen copies of base weights, which are skipped."""
    heads, unknown = {}, []
    for path, tensor in rest.items():
        _refuse_variant(path, adapter)
        if ".original_module." in path or _is_frozen_base(path, modules):
            continue
        name = _SAVED_COPY.sub("", path)
        if name != path or _listed(name, modules_to_save) or name.split(".")[0] in _PLAIN_HEADS:
            _refuse_backbone(name, modules, adapter)
            heads[name.removeprefix(TOWER)] = tensor
        else:
            unknown.append(path)
    if unknown:
        shown = ", ".join(unknown[:8]) + (f" and {len(unknown) - 8} more" if len(unknown) > 8 else "")
        raise KnotsError(
            f"adapter {adapter!r}: {len(unknown)} tensors are neither lora_A, lora_B nor a head: {shown}; "
            f"{MERGE_IT}"
        )
    return heads


def _is_frozen_base(path: str, modules: set[str]) -> bool:
    """`<module>.base_layer.weight` of an adapted module: LoRA never trains it."""
    module, found, _ = path.partition(".base_layer.")
    return bool(found) and module in modules


def _listed(name: str, modules_to_save: tuple[str, ...]) -> bool:
    return any(re.match(rf"(^|.*\.){re.escape(module)}($|\..*)", name) for module in modules_to_save)


def _refuse_variant(path: str, adapter: str) -> None:
    for mark, reason, way_out in _VARIANTS:
        if mark in path:
            raise KnotsError(f"adapter {adapter!r}: {path}: {reason}, so the update is not B @ A; {way_out}")


def _refuse_backbone(name: str, modules: set[str], adapter: str) -> None:
    """A head is a task's own. What was trained in full inside the backbone would silently be lost."""
    top = name.removeprefix(TOWER).split(".")[0]
    tops = {module.removeprefix(TOWER).split(".")[0] for module in modules}
    if top in tops or _BACKBONE.search(top):
        raise KnotsError(
            f"adapter {adapter!r}: modules_to_save holds {name!r}, a part of the backbone trained in full, "
            f"so the update is not B @ A; {MERGE_IT}"
        )
