"""The value object: one task's updates, its head tensors, and where they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from knots.updates import LowRank, Update


@dataclass(frozen=True, eq=False)
class Adapter:
    """One task's updates by module name, its head tensors, and where it came from.

    Attributes:
        name: the task, in messages, tables and DARE's random stream.
        updates: dW [O, I] of every adapted module, by normalized name; kept in order of names.
        heads: what was trained in full for this task alone, by normalized name ("score.weight").
        prefix: what stood before the normalized module names ("vision_model." or ""); saving restores it.
        base: the base model that the adapter's own config names, if any.
        source: where it was loaded from, as the user wrote it; "" where it was computed.
        fingerprint: SHA-256 over the content (`content_fingerprint`); "" where it was computed.
        fan_in_fan_out: the base stores its weights as [I, O] (GPT-2's Conv1D). Updates are [O, I] all the
            same: add `dense().T` to such a weight. Saving keeps the flag, because PEFT needs it.
    """

    name: str
    updates: Mapping[str, Update]
    heads: Mapping[str, Tensor] = field(default_factory=dict)
    prefix: str = ""
    base: str | None = None
    source: str = ""
    fingerprint: str = ""
    fan_in_fan_out: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "updates", dict(sorted(self.updates.items())))
        object.__setattr__(self, "heads", dict(sorted(self.heads.items())))


def content_fingerprint(
    updates: Mapping[str, Update],
    heads: Mapping[str, Tensor],
    *,
    prefix: str = "",
    fan_in_fan_out: bool = False,
) -> str:
    """SHA-256 in hex over what an adapter does: every tensor in float32, scaling absorbed, in order of names.

    Names, paths, file format and storage precision are left out: the same numbers in a `.bin` and in a
    `.safetensors` file, or once with alpha = 2r and once with B doubled, have the same fingerprint.
    """
    digest = hashlib.sha256(json.dumps([prefix, fan_in_fan_out]).encode())
    for name, update in sorted(updates.items()):
        if isinstance(update, LowRank):
            _hash_tensor(digest, f"{name}.b", update.b)
            _hash_tensor(digest, f"{name}.a", update.a)
        else:
            _hash_tensor(digest, f"{name}.weight", update.weight)
    for name, head in sorted(heads.items()):
        _hash_tensor(digest, f"head:{name}", head)
    return digest.hexdigest()


def _hash_tensor(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    digest.update(json.dumps([name, list(tensor.shape)]).encode())
    array = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    digest.update(array.data)
