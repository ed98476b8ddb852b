"""What a PEFT `adapter_config.json` says, and which of its options make an update that is not B @ A."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knots.errors import KnotsError

# What to do about a variant: where its difference to the base is a matrix, and where it is not.
MERGE_IT = (
    "merge it into the base with PEFT's merge_and_unload() and use the differences to the base as dense "
    "updates (knots.Dense), or train a plain LoRA"
)
RETRAIN = "train a plain LoRA instead"
CONVERT = (
    "let PEFT convert it to a plain LoRA: save_pretrained(..., path_initial_model_for_weight_conversion=...)"
)

# Every field of peft.LoraConfig is in exactly one of these four tables (a test compares them).
READ = frozenset(
    {"peft_type", "base_model_name_or_path", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora",
     "fan_in_fan_out", "modules_to_save", "bias", "init_lora_weights"}
)  # fmt: skip
REFUSED: Mapping[str, tuple[str, str]] = {
    "use_dora": ("DoRA also rescales every row of the updated weight", MERGE_IT),
    "lora_bias": ("lora_B has a bias, which is not part of dW", RETRAIN),
    "use_qalora": ("QA-LoRA pools the inputs before lora_A", RETRAIN),
    "kasa_config": ("KaSA changes the base weight and puts a diagonal between the factors", MERGE_IT),
    "monteclora_config": ("MonteCLoRA samples its factors anew at every call", RETRAIN),
    "use_bdlora": ("BD-LoRA stores block-diagonal factors", MERGE_IT),
    "arrow_config": ("Arrow routes every token among several adapters", RETRAIN),
    "alora_invocation_tokens": ("aLoRA acts only on the tokens after its invocation", RETRAIN),
    "trainable_token_indices": ("rows of the embedding were trained too", MERGE_IT),
    "target_parameters": ("it adapts bare parameters, such as stacked experts, not linear modules", MERGE_IT),
    "layer_replication": ("its layers are copies that the base model does not have", RETRAIN),
    "megatron_config": ("Megatron stores one shard of every factor a rank", MERGE_IT),
    "enable_lora": ("old PEFT adapted parts of a fused projection with grouped factors", RETRAIN),
}
IGNORED = frozenset(
    {
        # which modules were adapted: the tensors say so themselves
        "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "ensure_weight_tying",
        # training, initialization data and bookkeeping: without effect on a trained adapter
        "task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout",
        "runtime_config", "megatron_core", "qalora_group_size", "loftq_config", "eva_config", "corda_config",
        "lora_ga_config", "velora_config", "merge_weights",
    }
)  # fmt: skip

# These start from the base as it is; the others first take something out of the base weight, so that their
# B @ A is relative to a base that is not the published one.
_KEEPS_BASE = frozenset({"gaussian", "eva", "orthogonal", "mica"})
_CHANGES_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")


@dataclass(frozen=True)
class LoraSettings:
    """The options of a LoRA that change its updates.

    Attributes:
        rank, alpha: of every module that no pattern matches.
        rank_pattern, alpha_pattern: regular expression of module names -> value; the first match counts.
        use_rslora: the scaling is alpha / sqrt(rank) in place of alpha / rank.
        fan_in_fan_out: the base stores its weights as [I, O].
        modules_to_save: modules trained in full.
        base: the base model's id, if the config names one.
    """

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool
    fan_in_fan_out: bool
    modules_to_save: tuple[str, ...]
    base: str | None

    def rank_and_scaling(self, modules: Iterable[str]) -> dict[str, tuple[int, float]]:
        """Rank and scaling of every module, given by its full name in the base model, as PEFT finds them."""
        ranks, alphas = Patterns(self.rank_pattern), Patterns(self.alpha_pattern)
        found = {}
        for module in modules:
            rank = self.rank_pattern.get(ranks.key(module), self.rank)
            alpha = self.alpha_pattern.get(alphas.key(module), self.alpha)
            found[module] = rank, alpha / (math.sqrt(rank) if self.use_rslora else rank)
        return found


class Patterns:
    """PEFT's rule for `rank_pattern` and `alpha_pattern`: a key matches a whole name or what follows a dot.

    Raises:
        KnotsError: a key is not a regular expression.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._compiled = {}
        for key in keys:
            try:
                self._compiled[key] = re.compile(rf"(.*\.)?({key})$")
            except re.error as error:
                raise KnotsError(f"pattern {key!r} is not a regular expression: {error}") from error

    def key(self, module: str) -> str:
        """The first key that matches `module`; the module's own name where none does."""
        return next((key for key, pattern in self._compiled.items() if pattern.match(module)), module)


def read_settings(file: Path, adapter: str) -> LoraSettings:
    """Read and check an `adapter_config.json`.

    Args:
        file: the file.
        adapter: the adapter's name, for messages.

    Raises:
        KnotsError: not a JSON object, not a plain LoRA (names the option and what to do), or a value of
            the wrong kind.
    """
    config = _read_json(file)
    label = f"adapter {adapter!r} ({file})"
    _check_plain_lora(config, label)
    _warn_about_unknown(config, label)
    return LoraSettings(
        rank=int(_number(config, "r", 8, label)),  # a field that is missing has PEFT's default
        alpha=_number(config, "lora_alpha", 8, label),
        rank_pattern={key: int(value) for key, value in _pattern(config, "rank_pattern", label).items()},
        alpha_pattern=_pattern(config, "alpha_pattern", label),
        use_rslora=bool(config.get("use_rslora")),
        fan_in_fan_out=bool(config.get("fan_in_fan_out")),
        modules_to_save=_names(config.get("modules_to_save")),
        base=config.get("base_model_name_or_path") or None,
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise KnotsError(f"{file} is not valid JSON: {error}") from error
    except OSError as error:
        raise KnotsError(f"cannot read {file}: {error.strerror or error}") from error
    if not isinstance(config, dict):
        raise KnotsError(f"{file} must hold a JSON object, it holds a {type(config).__name__}")
    return config


def _check_plain_lora(config: Mapping[str, Any], label: str) -> None:
    if config.get("peft_type") != "LORA":
        raise KnotsError(
            f"{label}: peft_type={config.get('peft_type')!r} is not LORA, whose updates are B @ A; {MERGE_IT}"
        )
    for option, (reason, way_out) in REFUSED.items():
        value = config.get(option)
        if value not in (None, False, [], {}):
            raise KnotsError(
                f"{label}: {option}={_short(value)}: {reason}, so the update is not B @ A; {way_out}"
            )
    if config.get("bias") not in (None, "none"):
        raise KnotsError(
            f"{label}: bias={config['bias']!r}: biases of the base were trained too, so the update is not "
            f"B @ A; {RETRAIN} (bias='none')"
        )
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init not in _KEEPS_BASE:
        known = init.startswith(_CHANGES_BASE)
        changes = "changes" if known else "is unknown and may change"
        way_out = CONVERT if known and init != "loftq" else RETRAIN
        raise KnotsError(
            f"{label}: init_lora_weights={init!r} {changes} the base weights, so B @ A is not the difference "
            f"to the base; {way_out}"
        )


def _warn_about_unknown(config: Mapping[str, Any], label: str) -> None:
    """As PEFT does: a newer PEFT may have written the file. Unknown *tensors* are refused in any case."""
    known = READ | REFUSED.keys() | IGNORED
    unknown = sorted(key for key, value in config.items() if key not in known and value)
    if unknown:
        warnings.warn(f"{label}: unknown options, not used: {', '.join(unknown)}", stacklevel=4)


def _names(value: str | list[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _number(config: Mapping[str, Any], key: str, default: int, label: str) -> float:
    return _checked_number(config.get(key, default), key, label)


def _pattern(config: Mapping[str, Any], key: str, label: str) -> dict[str, float]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise KnotsError(f"{label}: {key}={_short(value)} must map module names to numbers")
    return {module: _checked_number(number, f"{key}[{module!r}]", label) for module, number in value.items()}


def _checked_number(value: object, key: str, label: str) -> float:
    ranks = key.startswith("r")
    if isinstance(value, bool) or not isinstance(value, int | float) or (ranks and value < 1):
        raise KnotsError(f"{label}: {key}={_short(value)} must be a number{' of 1 or more' if ranks else ''}")
    return value


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
