"""Pretrain the miniature base: a small CLIP on captioned pictures of `knots.suites.miniature.web`.

The loss is CLIP's, with one change for a small world: an image is not compared with the captions of its
batch, many of which would say the same, but with one caption for every thing that captions can say.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast

from knots.errors import KnotsError
from knots.files import whole_folder
from knots.suites.miniature.canvas import SIZE
from knots.suites.miniature.web import KINDS, Captions, WebStyle, captions, draw_web
from knots.training import Batches, build_trainer, cosine_schedule, parse_options, seeded

log = logging.getLogger(__name__)

PAD, START, UNKNOWN, END = "<pad>", "<start>", "<unknown>", "<end>"
CONTEXT = 16
"""The most tokens of a caption, start and end included."""


@dataclass(frozen=True)
class BaseShape:
    """The size of a miniature CLIP: its vision tower, its text tower and the space they share."""

    width: int
    layers: int
    heads: int
    patch: int
    text_width: int
    text_layers: int
    text_heads: int
    projection: int


@dataclass(frozen=True)
class PretrainingPlan:
    """How long and on what a base is trained.

    Attributes:
        pictures: number of different pictures.
        steps: optimizer steps, of `batch_size` pictures each.
        learning_rate: the highest one, after `warmup` steps; a cosine leads it to zero.
        weight_decay: AdamW's.
        seed: of everything: pictures, weights, order.
        web: how far the pictures are from the benchmark.
    """

    pictures: int
    steps: int
    batch_size: int
    learning_rate: float
    warmup: int
    weight_decay: float
    seed: int
    web: WebStyle


def parse_shape(config: Mapping[str, Any]) -> BaseShape:
    """Read a shape from plain values; KnotsError for a key that is unknown, absent or out of range."""
    return parse_options(BaseShape, config, "shape")


def parse_plan(config: Mapping[str, Any]) -> PretrainingPlan:
    """Read a plan from plain values; KnotsError for a key that is unknown, absent or out of range."""
    web = parse_options(WebStyle, config.get("web", {}), "plan.web")
    if set(web.strength) != set(KINDS) or not all(0 <= value <= 1 for value in web.strength.values()):
        raise KnotsError(
            f"plan.web.strength must give each of {', '.join(KINDS)} a number in [0, 1], "
            f"got {dict(web.strength)}"
        )
    return parse_options(PretrainingPlan, {**config, "web": web}, "plan")


def build_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the words of `texts`."""
    special = (PAD, START, UNKNOWN, END)
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: i for i, word in enumerate((*special, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, vocabulary[START]), (END, vocabulary[END])]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD, bos_token=START, unk_token=UNKNOWN, eos_token=END,
        model_max_length=CONTEXT,
    )  # fmt: skip


def build_clip(shape: BaseShape, tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
    """A CLIPModel with fresh weights that `seed` decides."""
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = CLIPConfig(
        projection_dim=shape.projection,
        vision_config={
            **_transformer(shape.width, shape.layers, shape.heads),
            "image_size": SIZE, "patch_size": shape.patch, "projection_dim": shape.projection,
        },
        text_config={
            **_transformer(shape.text_width, shape.text_layers, shape.text_heads),
            "vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT,
            "projection_dim": shape.projection, **ids,
        },
    )  # fmt: skip
    with seeded(seed):
        return CLIPModel(config)


def _transformer(width: int, layers: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


class Pretraining(L.LightningModule):
    """Teaches a CLIP which caption a picture has.

    Shapes: B pictures, C things that captions can say, W ways to say each, N tokens.
    """

    tokens: Tensor
    ways: Tensor
    excused: Tensor

    def __init__(self, model: Any, tokenizer: Any, said: Captions, plan: PretrainingPlan) -> None:
        super().__init__()
        self.model, self.plan = model, plan
        ways = [len(texts) for texts in said.texts]
        # Things that can be said in fewer ways repeat their last one; it is never drawn.
        padded = [text for texts in said.texts for text in (*texts, *[texts[-1]] * (max(ways) - len(texts)))]
        tokens = tokenizer(padded, padding="max_length", max_length=CONTEXT, return_tensors="pt")["input_ids"]
        longest = int((tokens != tokenizer.pad_token_id).sum(dim=1).max())
        self.register_buffer(
            "tokens", tokens.view(len(ways), max(ways), CONTEXT)[..., :longest], persistent=False
        )
        self.register_buffer("ways", torch.tensor(ways), persistent=False)
        kind, fine = torch.from_numpy(said.kind), torch.from_numpy(said.fine)
        # "a traffic sign" is no wrong caption of a stop sign, nor the other way round.
        excused = (kind[:, None] == kind) & (fine[:, None] != fine)
        self.register_buffer("excused", excused, persistent=False)

    def training_step(self, batch: tuple[Tensor, Tensor], step: int) -> Tensor:
        """Cross-entropy of (pictures uint8 [B, H, W, 3], what their captions say int64 [B])."""
        pictures, said = batch
        pixels = (pictures.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        image = self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)
        scale = self.model.logit_scale.clamp(max=np.log(100.0)).exp()
        logits = scale * F.normalize(image, dim=-1) @ self._captions().T
        loss = F.cross_entropy(logits.masked_fill(self.excused[said], -torch.inf), said)
        if step % 250 == 0:
            log.info("step %d: loss %.3f", self.global_step, float(loss.detach()))
        self.log("loss", loss, prog_bar=True)
        return loss

    def _captions(self) -> Tensor:
        """Features [C, D] of one caption for every thing, said in a random way."""
        way = (torch.rand(len(self.ways), device=self.ways.device) * self.ways).long()
        tokens = self.tokens[torch.arange(len(way), device=way.device), way]
        pooled = self.model.text_model(input_ids=tokens).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=-1)

    def configure_optimizers(self) -> Any:
        """AdamW with a linear warm-up and a cosine."""
        plan = self.plan
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
        )
        return cosine_schedule(optimizer, plan.warmup, plan.steps)


def pretrain_clip(
    shape: BaseShape, plan: PretrainingPlan, folder: Path, trainer: Mapping[str, Any], workers: int
) -> None:
    """Draw the pictures, train a base on them and save it in float16 as a folder that transformers loads.

    Args:
        shape: the size of the model.
        plan: how to train it.
        folder: where it goes; it appears when it is complete, an older one is replaced.
        trainer: further options of `lightning.Trainer`, such as accelerator, devices, callbacks.
        workers: processes that draw; they do not change the result.
    """
    said = captions()
    tokenizer = build_tokenizer([text for texts in said.texts for text in texts])
    log.info("drawing %d pictures", plan.pictures)
    images, labels = draw_web(plan.pictures, plan.seed, plan.web, workers)
    model = build_clip(shape, tokenizer, plan.seed)
    module = Pretraining(model, tokenizer, said, plan)
    batches = Batches(images, labels, plan.batch_size, plan.seed, shift=2)
    with seeded(plan.seed):
        build_trainer(plan.steps, trainer).fit(module, DataLoader(batches, batch_size=None))
    save_base(model, tokenizer, folder)


def save_base(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a base: float16 weights, tokenizer and the transform of its pictures."""
    half = [0.5, 0.5, 0.5]
    side = {"height": SIZE, "width": SIZE}
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size=side, image_mean=half, image_std=half
    )
    with whole_folder(folder) as unfinished:
        model.to(torch.float16).save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
    log.info("saved %s", folder)
