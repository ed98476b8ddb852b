"""Tiny building blocks that tests share: a random CLIP, adapters for it, a suite of drawn noise."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
)

from knots.adapters import Adapter
from knots.suites.data import ImageArrays
from knots.suites.sources import drawn
from knots.suites.tasks import ImageTask, Suite, parse_suite
from knots.updates import LowRank

IMAGE_SIZE = 32
WIDTH = 16
LAYERS = 2

MODULES = tuple(
    f"encoder.layers.{layer}.self_attn.{name}_proj"
    for layer in range(LAYERS)
    for name in ("q", "k", "v", "out")
)
"""The linear modules that the tiny adapters touch, by their normalized names."""

TRANSFORMER = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": LAYERS,
}
VISION = {**TRANSFORMER, "image_size": IMAGE_SIZE, "patch_size": 8}

WORDS = ["a", "an", "the", "photo", "of", "number", "texture", "zero", "one", "two", "red", "stripes", "dots"]


def tiny_clip(folder: Path, seed: int = 0, vision: Mapping[str, int] = VISION) -> Path:
    """Save a random CLIP (16 wide, two layers, 32 x 32 pixels) with tokenizer and transform.

    Args:
        folder: where to.
        seed: of its weights.
        vision: what its vision tower is made of.
    """
    tokenizer = _tokenizer()
    config = CLIPConfig(
        text_config={
            **TRANSFORMER,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 16,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config=dict(vision),
        projection_dim=12,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(config)
    _spread(model, torch.Generator().manual_seed(seed))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=size).save_pretrained(folder)
    return folder


def _spread(model: CLIPModel, generator: torch.Generator) -> None:
    """Give the linear weights size, so that random images and prompts get clearly different features."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                noise = torch.randn(module.weight.shape, generator=generator)
                module.weight.copy_(noise / module.in_features**0.5)


def _tokenizer() -> PreTrainedTokenizerFast:
    special = ["<pad>", "<unk>", "<start>", "<end>"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=16,
    )


def tiny_updates(
    seed: int, rank: int = 4, modules: Sequence[str] = MODULES, size: float = 0.5
) -> dict[str, LowRank]:
    """Random low-rank updates for modules of the tiny CLIP; `size` is about |dW| / |W|."""
    generator = torch.Generator().manual_seed(seed)
    scale = size / (WIDTH * rank) ** 0.5
    return {
        module: LowRank(
            scale * torch.randn(WIDTH, rank, generator=generator),
            torch.randn(rank, WIDTH, generator=generator),
        )
        for module in modules
    }


def tiny_adapter_in_memory(name: str, seed: int, rank: int = 4, **options: object) -> Adapter:
    """An adapter for the tiny CLIP that never touched a disk; `options` go to `tiny_updates`."""
    return Adapter(name=name, updates=tiny_updates(seed, rank, **options))  # type: ignore[arg-type]


def tiny_adapter(folder: Path, seed: int, rank: int = 4) -> Path:
    """Save a random LoRA adapter of the tiny CLIP's vision tower with PEFT; returns the folder."""
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["q_proj", "k_proj", "v_proj", "out_proj"])
    model = get_peft_model(CLIPVisionModel(CLIPVisionConfig(**VISION)), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                scale = 1.0 if "lora_A" in name else 0.5 / (WIDTH * rank) ** 0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


TASKS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "numbers": {"classes": ["zero", "one", "two"], "templates": ["a photo of the number {}"]},
    "patterns": {
        "classes": ["stripes", "dots", "red", "two"],
        "templates": ["a {} texture", "the {} texture"],
    },
    "digits": {"classes": ["one", "zero", "two"], "templates": ["a photo of the number {}"]},
}
"""Three tasks: the first and the last share their classes, and `two` of the second stays apart."""


def tiny_suite(sizes: Mapping[str, int] | None = None, kind: str = "noise") -> Suite:
    """A suite of three tasks over the words that the tiny CLIP knows.

    Args:
        sizes: task -> number of test items.
        kind: of the source; `noise` must be put into `knots.suites.data.SOURCES` (see `NOISE`).
    """
    sizes = sizes or {"numbers": 21, "patterns": 34, "digits": 13}
    tasks = {
        name: {**task, "sizes": {"test": sizes[name]}, "source": {"kind": kind, "seed": 0}}
        for name, task in TASKS.items()
        if name in sizes
    }
    return parse_suite({"name": "tiny", "modality": "vision", "tasks": tasks})


def tiny_arrays(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images uint8 [N, 32, 32, 3], each a chequer of 4 x 4 colours, and labels int64 [N]."""
    generator = np.random.default_rng(seed)
    colours = generator.integers(0, 256, size=(count, 4, 4, 3), dtype=np.uint8)
    images = colours.repeat(IMAGE_SIZE // 4, axis=1).repeat(IMAGE_SIZE // 4, axis=2)
    return images, generator.integers(0, classes, size=count)


def draw_noise(task: ImageTask, split: str) -> ImageArrays:
    """A source of data for `knots.suites.data.SOURCES`: `tiny_arrays`, another lot for each task."""
    return ImageArrays(*tiny_arrays(task.size(split), len(task.classes), seed=sum(map(ord, task.name))))


NOISE = drawn(draw_noise, version=1, options=("seed",), size=IMAGE_SIZE)
