"""The classifier family: a decoder of transformers whose last hidden state a task's own head reads.

Updates attach to the whole model, whose module names (`model.layers.0.self_attn.q_proj`) are those of PEFT
adapters. Its own head is never used: each task brings one.

Shapes: B items, L tokens of the longest, D size of the hidden state, C classes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from knots.errors import KnotsError
from knots.models.bases import Base, check_weights, find_base
from knots.suites.texts import TextReading

HEAD = "score"
"""What transformers calls the head of a decoder for sequence classification."""


@dataclass(frozen=True)
class ClassifierSpec:
    """Which decoder to load.

    Attributes:
        name: how the model is called in tables.
        base: a folder, `asset:<path>` for one that ships with the package, or a hub id.
        revision: branch, tag or commit of a hub id; None is its main branch.
        heads: path or URL of a file with the tasks' heads; None where the adapters have them.
        pretrained: an adapter that stands for the base and must be a zero update; None where there is none.
    """

    name: str
    base: str
    revision: str | None = None
    heads: str | None = None
    pretrained: str | None = None


class Classifier(nn.Module):
    """A decoder without a head of its own.

    Attributes:
        model: the transformers model, in evaluation mode.
        base: where it was loaded from.
        pad: the token that fills up rows. It stands to the right, where a decoder never looks.
    """

    def __init__(self, model: Any, base: Base, pad: int) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.base, self.pad = base, pad
        self._attention = str(model.config._attn_implementation)

    @property
    def tower(self) -> nn.Module:
        """The model, to whose linear modules the updates attach."""
        tower: nn.Module = self.model
        return tower

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def width(self) -> int:
        """D, the size of the hidden state."""
        return int(self.model.config.get_text_config().hidden_size)

    def suit(self, device: torch.device | None) -> None:
        """Choose how attention is computed: on a CPU plainly, which is faster there for short texts.

        Args:
            device: None for the way in which the model came.
        """
        plainly = device is not None and device.type == "cpu"
        self.model.set_attn_implementation("eager" if plainly else self._attention)

    def forward(self, tokens: Tensor, lengths: Tensor, *, lean: bool = False) -> Tensor:
        """What a head reads: the hidden state of each item's last token, after the final norm.

        No mask is needed: a token of a decoder sees only those before it, and padding stands behind.

        Args:
            tokens: int64 [B, L], padded on the right.
            lengths: int64 [B].
            lean: leave out what no head reads, the feed-forward of the last layer for all other tokens. Not
                for those who look at the inputs of modules.

        Returns:
            [B, D] in the precision of the weights.
        """
        if len(tokens) == 0:
            return torch.zeros(0, self.width, dtype=self.dtype, device=tokens.device)
        rows, last = torch.arange(len(tokens), device=tokens.device), lengths - 1
        with _only(rows, last, tokens.shape[1], self._last_feed_forward() if lean else None):
            hidden: Tensor = self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        return hidden[rows, last]

    def _last_feed_forward(self) -> nn.Module | None:
        """The feed-forward of the last layer, where it is one as in Llama."""
        layers = getattr(self.model.base_model, "layers", None)
        found = getattr(layers[-1], "mlp", None) if layers else None
        plain = isinstance(found, nn.Module) and isinstance(getattr(found, "down_proj", None), nn.Linear)
        return found if plain else None


@contextmanager
def _only(rows: Tensor, last: Tensor, width: int, feed_forward: nn.Module | None) -> Iterator[None]:
    """Let a module see one token of each row [B, L, D] and give the others zeros."""
    if feed_forward is None:
        yield
        return

    def take(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return inputs[0][rows, last].unsqueeze(1), *inputs[1:]

    def spread(_: nn.Module, __: object, output: Tensor) -> Tensor:
        whole = output.new_zeros(len(rows), width, output.shape[-1])
        whole[rows, last] = output[:, 0]
        return whole

    handles = [
        feed_forward.register_forward_pre_hook(take),
        feed_forward.register_forward_hook(spread),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def classifier_reading(base: Base) -> TextReading:
    """How pairs of sentences become what a decoder takes; its weights are not needed.

    Raises:
        KnotsError: the base has no tokenizer that can be read.
    """
    with _about(f"the tokenizer of the base in {base.folder}"), _quiet():
        tokenizer = AutoTokenizer.from_pretrained(base.folder)
    digest = hashlib.sha256()
    for path in sorted(base.folder.iterdir()):
        if "token" in path.name or path.suffix == ".model":
            digest.update(path.name.encode() + path.read_bytes())
    return TextReading(tokenizer, {"tokenizer": digest.hexdigest()})


def load_classifier(
    spec: ClassifierSpec, base: Base | None = None, dtype: torch.dtype = torch.float32
) -> Classifier:
    """Load a decoder for sequence classification on the CPU.

    Args:
        spec: which one.
        base: where it is, if that was found out before.
        dtype: of the weights; they are never held in another one.

    Raises:
        KnotsError: the base is not there, is no decoder, or lacks weights (transformers would fill
            them with random numbers).
    """
    base = base or find_base(spec.base, spec.revision)
    # transformers draws the absent head from the global generator.
    with _about(f"model {spec.name!r}: the base {spec.base!r}"), _quiet(), torch.random.fork_rng(devices=[]):
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            base.folder, dtype=dtype, output_loading_info=True
        )
    model, info = loaded
    head = getattr(model, HEAD, None)
    if not isinstance(head, nn.Linear) or model.base_model is model:
        raise KnotsError(
            f"model {spec.name!r}: the base {spec.base!r} is a {type(model).__name__}, no decoder with a "
            f"linear head {HEAD!r} on the last token"
        )
    check_weights(spec.name, spec.base, [w for w in info["missing_keys"] if not w.startswith(f"{HEAD}.")])
    return Classifier(model, base, _pad(model.config))


def _pad(config: Any) -> int:
    """The token that fills rows up: the model's own, else the one that ends texts, as in the reference."""
    for token in (config.pad_token_id, config.eos_token_id):
        if token is not None:
            return int(token[0] if isinstance(token, list) else token)
    return 0


@contextmanager
def _about(what: str) -> Iterator[None]:
    """Name what could not be loaded."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError, KeyError, ImportError) as error:
        raise KnotsError(f"{what} cannot be loaded: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice to train a head that is never used."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
