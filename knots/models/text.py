"""Text towers of open_clip: who embeds the prompts of a CLIP whose heads come from there.

The KnOTS adapters belong to OpenAI's weights, which open_clip also carries, with the prompts' usual
tokenizer.

Shapes: n prompts, D size of the shared feature space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from knots import hub
from knots.errors import KnotsError, first_line, unknown

PROMPT_BATCH = 256
"""Prompts that go through a text tower at once."""

Encoder = Callable[[Sequence[str]], Tensor]
"""Prompts -> text features of unit length, [n, D] in float32."""


@dataclass(frozen=True)
class TextSpec:
    """Which text tower of open_clip.

    Attributes:
        open_clip: the model's name there. OpenAI's weights need the `-quickgelu` names: the plain ones have
            GELU.
        weights: a tag of that model's weights on the hub ("openai"), or a file.
    """

    open_clip: str
    weights: str = "openai"


def check_text(spec: TextSpec, activation: str, dim: int) -> None:
    """Hold a text tower against the vision tower that it is to be used with.

    Args:
        spec: the text tower.
        activation: of the vision tower, as transformers names it.
        dim: D of the vision tower.

    Raises:
        KnotsError: open_clip has no such model or weights, or the two towers cannot be of one CLIP.
    """
    import open_clip

    config = open_clip.get_model_config(spec.open_clip)
    if config is None:
        raise unknown("open_clip model", spec.open_clip, open_clip.list_models())
    theirs = "quick_gelu" if config.get("quick_gelu") else "gelu"
    if theirs != activation:
        hint = (
            f"{spec.open_clip.removesuffix('-quickgelu')}{'-quickgelu' if activation == 'quick_gelu' else ''}"
        )
        raise KnotsError(
            f"model.text.open_clip={spec.open_clip!r} has the activation {theirs}, but the vision tower has "
            f"{activation}: they are not of one CLIP; try {hint!r}"
        )
    if config["embed_dim"] != dim:
        raise KnotsError(
            f"model.text.open_clip={spec.open_clip!r} has features of size {config['embed_dim']}, but the "
            f"vision tower's have size {dim}"
        )
    _address(spec)


def _address(spec: TextSpec) -> str | Path:
    """The hub repository of the weights, or their file.

    Raises:
        KnotsError: `weights` is neither a tag with a repository nor a file.
    """
    import open_clip

    path = Path(spec.weights).expanduser()
    if path.is_file():
        return path
    tags = open_clip.list_pretrained_tags_by_model(spec.open_clip)
    if spec.weights not in tags:
        raise unknown(f"weights of open_clip model {spec.open_clip!r} (a tag, or a file)", spec.weights, tags)
    repo = str(open_clip.get_pretrained_cfg(spec.open_clip, spec.weights).get("hf_hub", "")).rstrip("/")
    if not repo:
        raise KnotsError(
            f"the weights {spec.weights!r} of {spec.open_clip!r} are not on the hub; give a file"
        )
    return repo


def text_identity(spec: TextSpec) -> dict[str, str]:
    """What determines the text features: the model, and its weights by commit or content."""
    place = _address(spec)
    if isinstance(place, Path):
        with place.open("rb") as file:
            return {"open_clip": spec.open_clip, "content": hashlib.file_digest(file, "sha256").hexdigest()}
    commit = hub.commit(hub.snapshot(place, ["open_clip_config.json"]))
    return {"open_clip": spec.open_clip, "weights": spec.weights, "commit": commit}


@contextmanager
def text_encoder(spec: TextSpec, device: torch.device | str) -> Iterator[Encoder]:
    """The text tower on `device` while the block runs, in float32; its vision tower is thrown away at once.

    Raises:
        KnotsError: the weights cannot be had or read.
    """
    import open_clip

    model: Any = _load(spec)
    del model.visual
    model = model.eval().requires_grad_(False).to(device)
    tokenizer = open_clip.get_tokenizer(spec.open_clip)

    def encode(prompts: Sequence[str]) -> Tensor:
        features = []
        for at in range(0, len(prompts), PROMPT_BATCH):
            tokens = tokenizer(list(prompts[at : at + PROMPT_BATCH])).to(device)
            features.append(encode_tokens(model, tokens).float())
        return torch.cat(features)

    yield encode


def text_weights(spec: TextSpec) -> Path:
    """The file of the weights on this machine; what is on the hub is downloaded to the hub's cache.

    Raises:
        KnotsError: it cannot be had.
    """
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    place = _address(spec)
    if isinstance(place, Path):
        return place
    names = (str(HF_SAFE_WEIGHTS_NAME), str(HF_WEIGHTS_NAME))
    folder = hub.snapshot(place, ["open_clip_config.json"], one_of=names)
    return next(folder / name for name in names if (folder / name).is_file())


def _load(spec: TextSpec) -> Any:
    import open_clip

    place = text_weights(spec)
    try:
        return open_clip.create_model(spec.open_clip, pretrained=str(place))
    except Exception as error:  # damaged files make its readers stumble in any way
        raise KnotsError(
            f"open_clip model {spec.open_clip!r}: weights in {place} cannot be loaded: {first_line(error)}"
        ) from error


@torch.no_grad()
def encode_tokens(model: Any, tokens: Tensor) -> Tensor:
    """Text features of unit length [n, D] of an open_clip model, without the padding of `tokens` [n, 77].

    Attention looks back only and the feature is read at a prompt's last token, so what stands behind the
    longest prompt changes nothing and is not computed.
    """
    length = int(tokens.argmax(dim=1).max()) + 1  # the end of a text is the largest token there is
    mask = model.attn_mask
    shorter = {"positional_embedding": model.positional_embedding[:length]}
    if mask is not None:
        shorter["attn_mask"] = mask[:length, :length]
    found = torch.func.functional_call(model, shorter, kwargs={"text": tokens[:, :length]})
    features: Tensor = found["text_features"] if isinstance(found, dict) else found[1]
    return F.normalize(features, dim=-1)
