"""Putting updates on a model that is kept once: folded into its weights, or beside them.

*Folding* adds dW to the weight of the linear module and keeps the original, which `restore` puts
back bit for bit. In bf16 or fp16 most of a small dW would be rounded away by the addition, so there
updates run on the *side path*: a forward hook adds x A' B', or x dW', to the module's output. Rounded on
its own, dW keeps all of its size, and each entry errs by its own last bit.

The side path also runs T adapters in one pass, for the ensemble: the batch holds T copies of the
images, one after the other, and the hook gives each copy its own adapter's update.

Shapes: T adapters, B items, N tokens, O out features, I in features, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from knots.adapters import Adapter
from knots.errors import KnotsError
from knots.updates import Dense, LowRank, Update


@dataclass(frozen=True, eq=False)
class Attached:
    """Updates on a model; `restore`, or the end of a `with` block, takes them off again."""

    originals: Mapping[str, tuple[nn.Parameter, Tensor]]
    hooks: Sequence[RemovableHandle]

    def restore(self) -> None:
        """Give the model its own weights back, bit for bit; a second call changes nothing."""
        for parameter, original in self.originals.values():
            parameter.data.copy_(original)
        for hook in self.hooks:
            hook.remove()

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()


def check_modules(tower: nn.Module, adapter: Adapter) -> None:
    """Check that every update of the adapter fits a linear module of the tower.

    Raises:
        KnotsError: a module is not there (the message shows a key of the adapter and one of the
            model), is not linear, or has another shape.
    """
    modules = dict(tower.named_modules())
    absent = [name for name in adapter.updates if name not in modules]
    if absent:
        linear = next((name for name, module in modules.items() if _is_linear(module)), "(none is linear)")
        raise KnotsError(
            f"adapter {adapter.name!r}: {len(absent)} of its {len(adapter.updates)} modules are not in the "
            f"model; the adapter has {absent[0]!r}, the model's modules look like {linear!r}"
        )
    for name, update in adapter.updates.items():
        module = modules[name]
        if not _is_linear(module):
            raise KnotsError(
                f"adapter {adapter.name!r}: module {name!r} is a {type(module).__name__} in the model; "
                "updates attach to linear modules only"
            )
        shape = tuple(_weight(module).shape)
        if tuple(update.shape) != shape:
            raise KnotsError(
                f"adapter {adapter.name!r}: module {name!r} has an update of shape {tuple(update.shape)}, "
                f"but a weight of shape {shape} in the model"
            )


def attach(tower: nn.Module, adapter: Adapter) -> Attached:
    """Put one adapter on a tower in the way that its precision asks for: folded in float32, else beside it.

    Raises:
        KnotsError: the adapter does not fit (see `check_modules`).
    """
    dtypes = {module.weight.dtype for _, module in _targets(tower, adapter)}
    if dtypes <= {torch.float32, torch.float64}:
        return fold(tower, adapter)
    return beside(tower, [adapter])


@torch.no_grad()
def fold(tower: nn.Module, adapter: Adapter) -> Attached:
    """Add an adapter's updates to the weights of the tower, whose originals are kept.

    Raises:
        KnotsError: the adapter does not fit, or a weight is in half precision, where folding would
            round most of the update away.
    """
    targets = _targets(tower, adapter)
    for name, module in targets:
        if module.weight.dtype not in (torch.float32, torch.float64):
            raise KnotsError(
                f"module {name!r} is in {module.weight.dtype}: an update is folded in float32 only"
            )
    originals = {}
    for name, module in targets:
        originals[name] = (module.weight, module.weight.detach().clone())
        weight = _weight(module)
        weight += adapter.updates[name].to(weight.device).dense()
    return Attached(originals, ())


def beside(tower: nn.Module, adapters: Sequence[Adapter]) -> Attached:
    """Run T adapters beside the weights, in one pass over a batch of T copies.

    The tower must then be given a batch [T * B, ...] whose first B items are for the first adapter.
    A module that one of the adapters lacks is left unchanged for its copy. Ranks may differ.

    Raises:
        KnotsError: an adapter does not fit.
    """
    hooks = []
    modules = {name: module for adapter in adapters for name, module in _targets(tower, adapter)}
    paths = {name: _side_path(name, _weight(module), adapters) for name, module in modules.items()}
    for name, path in paths.items():
        hooks.append(modules[name].register_forward_hook(path))
    return Attached({}, hooks)


@dataclass(frozen=True, eq=False)
class SidePath:
    """The forward hook of one module: adds x A' B' for each of T copies of the batch.

    Attributes:
        a: [T, I, R], or the matrices dW' [T, I, O] where `b` is None.
        b: [T, R, O].
    """

    a: Tensor
    b: Tensor | None

    def __call__(self, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """Add the updates to the module's output [T * B, ..., O]."""
        x: Tensor = inputs[0]
        copies = x.reshape(self.a.shape[0], -1, x.shape[-1])
        added = torch.bmm(copies, self.a)
        if self.b is not None:
            added = torch.bmm(added, self.b)
        return output + added.view(output.shape)


def _side_path(name: str, weight: Tensor, adapters: Sequence[Adapter]) -> SidePath:
    """Stack the T adapters' updates of one module on its device, in its precision, padded with zeros."""
    updates = [adapter.updates.get(name) for adapter in adapters]
    if any(isinstance(update, Dense) for update in updates):
        empty = weight.new_zeros(weight.shape)
        matrices = [empty if update is None else update.dense().to(empty) for update in updates]
        return SidePath(torch.stack(matrices).transpose(1, 2).contiguous(), None)
    rank = max((update.rank for update in updates if update is not None), default=0)
    factors = [_padded(update, rank, weight) for update in updates]
    return SidePath(torch.stack([a for a, _ in factors]), torch.stack([b for _, b in factors]))


def _padded(update: Update | None, rank: int, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Transposed factors [I, R], [R, O] of an update, padded with zeros to a common rank."""
    out_features, in_features = weight.shape
    if update is None:
        return weight.new_zeros(in_features, rank), weight.new_zeros(rank, out_features)
    assert isinstance(update, LowRank)
    missing = rank - update.rank
    a = F.pad(update.a.T, (0, missing))
    b = F.pad(update.b.T, (0, 0, 0, missing))
    return a.to(weight), b.to(weight)


def _targets(tower: nn.Module, adapter: Adapter) -> list[tuple[str, Any]]:
    check_modules(tower, adapter)
    return [(name, tower.get_submodule(name)) for name in adapter.updates]


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def _weight(module: nn.Module) -> Tensor:
    """The weight as a view [O, I]: transformers' Conv1D keeps it the other way round."""
    weight: Tensor = module.weight.detach()  # type: ignore[operator]
    return weight.T if isinstance(module, Conv1D) else weight
