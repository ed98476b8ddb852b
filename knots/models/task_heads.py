"""Each task's own head: from its adapter, or from a file of heads that the user names.

Heads are never merged: a task is scored by its own, on whatever stands below it.

Shapes: C classes, D size of the hidden state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from knots.adapters import Adapter
from knots.errors import KnotsError
from knots.models.classifier import HEAD
from knots.user_files import load_tensors, local_file

KEY = f"{HEAD}.weight"


def task_heads(adapters: Sequence[Adapter], file: str | None, cache_dir: Path) -> list[Tensor]:
    """One head a task, in the order of the adapters.

    Args:
        adapters: one a task, by the task's name.
        file: path or URL of a file with heads (`.safetensors`, or a pickle read weights-only), under the
            task's name, `<task>.weight` or `<task>.score.weight`; what it holds is taken first. May be None.
        cache_dir: root of the caches, where a download is kept.

    Returns:
        Tensors [C, D] in float32.

    Raises:
        KnotsError: a task has a head in neither, a head is no matrix or has a bias, or the file cannot be
            had or read.
    """
    given = {} if file is None else _read(file, cache_dir)
    return [_head(adapter, given, file) for adapter in adapters]


def _head(adapter: Adapter, given: Mapping[str, Tensor], file: str | None) -> Tensor:
    task = adapter.name
    keys = (task, f"{task}.weight", f"{task}.{KEY}")
    found = next((given[key] for key in keys if key in given), None)
    if found is None:
        found = _own(adapter)
    if found is None:
        place = (
            "and no file of heads is named"
            if file is None
            else f"nor has the file {file!r} a tensor {task!r}"
        )
        raise KnotsError(
            f"task {task!r} has no head: its adapter {adapter.source!r} has no {KEY!r}, {place}; name "
            "one that has it with model.heads=<path or URL>"
        )
    if found.ndim != 2:
        raise KnotsError(f"task {task!r}: its head has shape {tuple(found.shape)}; a matrix [C, D] is needed")
    return found.float()


def _own(adapter: Adapter) -> Tensor | None:
    """The head of an adapter.

    Raises:
        KnotsError: it has a bias, which a decoder's head has not.
    """
    if f"{HEAD}.bias" in adapter.heads:
        raise KnotsError(f"adapter {adapter.name!r}: its head has a bias; only a weight is used")
    return adapter.heads.get(KEY)


def heads_file(place: str, cache_dir: Path) -> Path:
    """The file of heads on this machine; what a URL names is downloaded once.

    Raises:
        KnotsError: there is no such file, or it cannot be downloaded.
    """
    return local_file(place, _called(place), cache_dir / "heads")


def _called(place: str) -> str:
    return f"file of heads {place!r}"


def _read(place: str, cache_dir: Path) -> dict[str, Tensor]:
    """The tensors of a file of heads; those of a task that has a mapping of its own under `<task>.<name>`."""
    return _flat(load_tensors(heads_file(place, cache_dir), _called(place)), _called(place))


def _flat(values: object, where: str, prefix: str = "") -> dict[str, Tensor]:
    if isinstance(values, Tensor):
        return {prefix.removesuffix("."): values}
    if not isinstance(values, Mapping):
        raise KnotsError(f"{where} holds {type(values).__name__}, not tensors by task")
    found: dict[str, Tensor] = {}
    for key, value in values.items():
        found |= _flat(value, where, f"{prefix}{key}.")
    return found
