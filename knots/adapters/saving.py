"""From an Adapter to a folder that any PEFT program loads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from knots.adapters.adapter import Adapter
from knots.adapters.config import Patterns
from knots.adapters.keys import WRAPPER
from knots.adapters.shortening import shorten_all
from knots.adapters.sources import CONFIG_FILE, HEADS_FILE, SAFETENSORS_FILE
from knots.adapters.tensors import Entry, write_tensors
from knots.errors import KnotsError
from knots.files import whole_folder
from knots.updates import LowRank, Update

# Marks our own files, so that saving again replaces them but never an adapter that someone trained.
_METADATA = {"format": "pt", "written_by": "knots"}


def save_adapter(adapter: Adapter, folder: str | Path, *, max_rank: int | None = None) -> float:
    """Write a PEFT LoRA folder; heads go to `heads.safetensors` beside the factors, which PEFT ignores.

    Every module is written with the exact rank of its update (directions below float32 rounding are not part
    of it) and scaling 1; modules whose update is zero are left out. A dense update without `max_rank` gets an
    identity as its smaller factor. Factors are written one at a time: no more than one is held beside the
    adapter itself. The folder appears whole or not at all.

    Args:
        adapter: what to save.
        folder: must not exist, be empty, or hold an adapter that this function wrote (it is replaced).
        max_rank: shorten every update to this rank at most, in the best way for the Frobenius norm.

    Returns:
        What shortening cost: the Frobenius norm of all that was cut over that of all updates, as a fraction.
        0.0 without `max_rank`.

    Raises:
        KnotsError: every update is zero, a value is not finite, `max_rank` is below 1, or the folder cannot
            be written (it holds something else, the disk is full).
    """
    if max_rank is not None and (isinstance(max_rank, bool) or not isinstance(max_rank, int) or max_rank < 1):
        raise KnotsError(f"max_rank={max_rank!r}; allowed: a whole number of 1 or more, or None")
    target = Path(folder).expanduser().absolute()
    _check_target(target)
    short, error = shorten_all(adapter.updates, max_rank, check=partial(_check_values, adapter.name))
    parts = {module: update for module, update in short.items() if update.rank > 0}
    if not parts:
        raise KnotsError(f"adapter {adapter.name!r}: every update is zero, so there is nothing to save")
    named = {adapter.prefix + module: update for module, update in parts.items()}
    with _appearing_whole(target) as draft:
        write_tensors(draft / SAFETENSORS_FILE, list(_factor_entries(named)), _METADATA)
        if adapter.heads:
            write_tensors(draft / HEADS_FILE, list(_head_entries(adapter.heads)), _METADATA)
        ranks = {module: update.rank for module, update in named.items()}
        text = json.dumps(_config(adapter, ranks), indent=2) + "\n"
        (draft / CONFIG_FILE).write_text(text, encoding="utf-8")
    return error


def _check_values(adapter: str, module: str, update: Update) -> None:
    tensors = (update.b, update.a) if isinstance(update, LowRank) else (update.weight,)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise KnotsError(f"adapter {adapter!r}, module {module!r}: weights are NaN or infinite")


def _factor_entries(updates: Mapping[str, Update]) -> Iterator[Entry]:
    for module, update in updates.items():
        (rows, columns), rank = update.shape, update.rank
        # a dense update: made when it is written, so that no identity is held before
        identity = partial(torch.eye, rank)
        if isinstance(update, LowRank):
            a, b = update.a.detach, update.b.detach
        elif rows <= columns:
            a, b = update.dense, identity
        else:
            a, b = identity, update.dense
        yield Entry(f"{WRAPPER}{module}.lora_A.weight", (rank, columns), a)
        yield Entry(f"{WRAPPER}{module}.lora_B.weight", (rows, rank), b)


def _head_entries(heads: Mapping[str, Tensor]) -> Iterator[Entry]:
    for name, head in heads.items():
        yield Entry(name, tuple(head.shape), head.detach)


def _config(adapter: Adapter, ranks: Mapping[str, int]) -> dict[str, object]:
    """The `adapter_config.json`. Both patterns are set: with one PEFT would scale by lora_alpha / rank."""
    largest = max(ranks.values())
    pattern = {key: ranks[module] for module, key in pattern_keys(list(ranks)).items()}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": adapter.base,
        "inference_mode": True,
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "target_modules": list(ranks),
        "fan_in_fan_out": adapter.fan_in_fan_out,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "modules_to_save": None,
    }


def pattern_keys(modules: Sequence[str]) -> dict[str, str]:
    """The key under which every module stands in `rank_pattern`, in the order in which they must stand there.

    Keys are regular expressions, matched against the end of a module's name, and the first match counts.
    Plain names are used where every module finds itself, the longest first ("decoder.fc" must not be
    found by the key "fc"); otherwise keys are escaped and anchored ("h.110" would be found by "h.1.0").
    """
    ordered = sorted(modules, key=lambda module: (-len(module), module))
    plain = all(re.fullmatch(r"[\w.-]+", module) for module in ordered)
    if plain:
        patterns = Patterns(ordered)
        plain = all(patterns.key(module) == module for module in ordered)
    return {module: module if plain else f"^{re.escape(module)}" for module in ordered}


def _check_target(target: Path) -> None:
    """Raise unless writing `target` loses nothing: it is absent, empty, or an earlier save of ours."""
    if target.exists() and not target.is_dir():
        raise KnotsError(f"cannot save to {target}: it is a file")
    if target.is_dir() and any(target.iterdir()) and not _is_ours(target):
        raise KnotsError(f"cannot save to {target}: the folder holds other files; give a new or an empty one")


def _is_ours(folder: Path) -> bool:
    if {path.name for path in folder.iterdir()} - {CONFIG_FILE, SAFETENSORS_FILE, HEADS_FILE}:
        return False
    try:
        with safe_open(folder / SAFETENSORS_FILE, framework="pt") as file:
            return (file.metadata() or {}).get("written_by") == _METADATA["written_by"]
    except (SafetensorError, OSError):
        return False


@contextmanager
def _appearing_whole(target: Path) -> Iterator[Path]:
    """`whole_folder`, whose failures are the user's to know."""
    try:
        with whole_folder(target) as draft:
            yield draft
    except OSError as error:
        reason = error.strerror or str(error)
        raise KnotsError(f"cannot save to {target}: {reason}; nothing was kept there") from error
