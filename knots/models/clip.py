"""The CLIP family: load a base from transformers, encode images and prompts.

Updates attach to `Clip.tower`, the model's `vision_model`, whose module names
(`encoder.layers.0.self_attn.q_proj`) are the same in every version of transformers.

Shapes: B images, H height, W width, D size of the shared feature space, n prompts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

from knots.errors import KnotsError
from knots.models.bases import Base, check_weights, find_base
from knots.models.text import PROMPT_BATCH, Encoder, TextSpec, check_text, text_encoder, text_identity
from knots.suites.sources import DataOptions, Reading
from knots.suites.transforms import make_transform

SHAPING = ("do", "size", "crop", "resample", "default")
"""How the names of a processor's settings begin that shape pictures; the others normalize them."""


@dataclass(frozen=True)
class ClipSpec:
    """Which CLIP to load.

    Attributes:
        name: how the model is called in tables.
        base: a folder, `asset:<path>` for one that ships with the package, or a hub id.
        revision: branch, tag or commit of a hub id; None is its main branch.
        text: who embeds prompts; None is the base's own text tower.
    """

    name: str
    base: str
    revision: str | None = None
    text: TextSpec | None = None


class Clip(nn.Module):
    """A CLIP with what its inputs need: the constants of its transform and its tokenizer.

    Attributes:
        model: the transformers model, in evaluation mode.
        tower: the part of it that updates attach to.
        image_size: side of the square images it takes, in pixels.
        base: where the model was loaded from.
        text: who embeds prompts, where it is not the model's own text tower.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: Any, processor: CLIPImageProcessorPil, base: Base, text: TextSpec | None = None
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.base, self.text = base, text
        self.image_size = int(model.config.vision_config.image_size)
        self.rescale = float(processor.rescale_factor) if processor.do_rescale else 1.0
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
        self.register_buffer("mean", _per_channel(mean), persistent=False)
        self.register_buffer("std", _per_channel(std), persistent=False)

    @property
    def tower(self) -> nn.Module:
        """The vision transformer, to whose linear modules the updates attach."""
        tower: nn.Module = self.model.vision_model
        return tower

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the vision tower's weights."""
        dtype: torch.dtype = self.model.visual_projection.weight.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mean.device

    def normalize(self, images: Tensor) -> Tensor:
        """What the model sees of images in bytes, on their own device.

        Repeats the arithmetic of `CLIPImageProcessorPil` (rescale in float64, round to float32, then
        subtract and divide), so the result is the same bit for bit where nothing is resized.

        Args:
            images: uint8 [B, H, W, 3] or [B, 3, H, W], RGB.

        Returns:
            float32 [B, 3, H, W].

        Raises:
            KnotsError: the images do not have the size that the model takes.
        """
        if images.shape[-1] == 3 and images.shape[1] != 3:
            images = images.permute(0, 3, 1, 2)
        expected = (3, self.image_size, self.image_size)
        if tuple(images.shape[1:]) != expected:
            raise KnotsError(
                f"images of shape {tuple(images.shape[1:])} (channels, height, width) do not fit the model, "
                f"which takes {expected}"
            )
        rescaled = (images.double() * self.rescale).float()
        return (rescaled - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Image features of unit length.

        Args:
            images: uint8 as `normalize` takes them, or normalized floats [B, 3, H, W].

        Returns:
            [B, D], with an L2 norm of 1.
        """
        pixels = self.normalize(images) if images.dtype == torch.uint8 else images
        pooled = self.tower(pixel_values=pixels.to(self.dtype)).pooler_output
        return F.normalize(self.model.visual_projection(pooled), dim=-1)

    def reading(self, options: DataOptions) -> Reading:
        """How pictures are read for this model; see `clip_reading`."""
        return clip_reading(self.base, options)

    @property
    def text_identity(self) -> dict[str, str]:
        """What determines the features of prompts, as plain values."""
        return self.base.identity if self.text is None else text_identity(self.text)

    @contextmanager
    def text_encoder(self, device: torch.device | str | None = None) -> Iterator[Encoder]:
        """What embeds prompts while the block runs: the own text tower, or open_clip's on `device`.

        Raises:
            KnotsError: open_clip's weights cannot be had or read.
        """
        if self.text is None:
            yield self.encode_text
            return
        with text_encoder(self.text, self.mean.device if device is None else device) as encode:
            yield encode

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Text features of the own text tower, of unit length [n, D]; prompts beyond its length are cut."""
        return torch.cat(
            [self._encode(prompts[at : at + PROMPT_BATCH]) for at in range(0, len(prompts), PROMPT_BATCH)]
        )

    @cached_property
    def tokenizer(self) -> Any:
        """Of the own text tower."""
        return AutoTokenizer.from_pretrained(self.base.folder)

    def _encode(self, prompts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(prompts),
            padding=True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        device = self.mean.device
        pooled = self.model.text_model(
            input_ids=tokens["input_ids"].to(device), attention_mask=tokens["attention_mask"].to(device)
        ).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=-1)


def clip_reading(base: Base, options: DataOptions) -> Reading:
    """How pictures become what a CLIP takes; its weights are not needed.

    Raises:
        KnotsError: the base's configuration cannot be read.
    """
    try:
        vision: Any = CLIPConfig.from_pretrained(base.folder).vision_config
        size = int(vision.image_size)
        settings = CLIPImageProcessorPil.from_pretrained(base.folder).to_dict()
    except (OSError, ValueError) as error:
        raise KnotsError(f"the base in {base.folder} cannot be loaded: {error}") from error
    shaping = {key: value for key, value in settings.items() if key.split("_")[0] in SHAPING}
    transform = make_transform(options.transform, size, shaping)
    return Reading(transform, options.skip_broken, options.workers or os.cpu_count() or 1)


def load_clip(spec: ClipSpec, base: Base | None = None, dtype: torch.dtype = torch.float32) -> Clip:
    """Load a CLIP on the CPU.

    Args:
        spec: which one.
        base: where it is, if that was found out before: a folder is hashed, and a hub asked, each time.
        dtype: of the weights.

    Raises:
        KnotsError: the base is not there, is no CLIP, or lacks weights (transformers would fill
            them with random numbers).
    """
    base = base or find_base(spec.base, spec.revision)
    try:
        loaded: Any = CLIPModel.from_pretrained(base.folder, dtype=dtype, output_loading_info=True)
        model, info = loaded
        processor = CLIPImageProcessorPil.from_pretrained(base.folder)
        clip = Clip(model, processor, base, spec.text)
        if spec.text is None:
            clip.tokenizer  # noqa: B018 - a base without one shows now, not after an evaluation
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise KnotsError(f"model {spec.name!r}: cannot load the base {spec.base!r}: {error}") from error
    check_weights(spec.name, spec.base, list(info["missing_keys"]), of=" of a CLIP")
    if spec.text is not None:
        check_text(spec.text, model.config.vision_config.hidden_act, model.config.projection_dim)
    return clip


def _per_channel(value: float | Sequence[float]) -> Tensor:
    """[3, 1, 1] in float32, for one number or one a channel."""
    return torch.tensor(value, dtype=torch.float32).expand(3).reshape(3, 1, 1).clone()
