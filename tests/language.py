"""Tiny building blocks for language that tests share: a random Llama, adapters for it, pairs of sentences."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, TaskType, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from knots.suites.tasks import TextTask
from knots.suites.texts import TextArrays

WIDTH = 16
LAYERS = 2
CLASSES = ("entailment", "neutral", "contradiction")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")

MODULES = tuple(
    f"model.layers.{layer}.self_attn.{projection}" for layer in range(LAYERS) for projection in PROJECTIONS
)
"""The linear modules that the tiny adapters touch, by their normalized names."""

PAD, UNKNOWN, START, END = SPECIAL = ("<pad>", "<unk>", "<start>", "<end>")
WORDS = (
    *("a", "the", "man", "woman", "dog", "child", "is", "not", "sleeping", "running"),
    *("outside", "inside", "red", "blue", "one", "two", "yes", "no", "maybe", "?"),
)


def tiny_llama(folder: Path, seed: int = 0) -> Path:
    """Save a random causal Llama (16 wide, two layers, four heads on two keys) with its tokenizer.

    A head for classification is absent, as it is in the real one.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(_config())
    # The weights get size, so that different pairs get clearly different hidden states.
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                noise = torch.randn(module.weight.shape, generator=generator)
                module.weight.copy_(noise / module.in_features**0.5)
            elif isinstance(module, torch.nn.Embedding):
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator))
    model.save_pretrained(folder)
    tiny_text_tokenizer().save_pretrained(folder)
    return folder


def tiny_text_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words that starts each sentence of a pair anew, as that of Llama 3 does."""
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A",
        pair=f"{START} $A {START}:1 $B:1",
        special_tokens=[(START, vocabulary[START])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        padding_side="right",
        model_max_length=64,
    )


def tiny_text_arrays(
    count: int, seed: int, classes: Sequence[int] = (0, 1, 2), longest: int = 12
) -> TextArrays:
    """Items of random words, 3 to `longest` tokens long, with random labels among `classes`."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, longest + 1, size=count)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = generator.integers(len(SPECIAL), len(SPECIAL) + len(WORDS), size=starts[-1]).astype(np.int32)
    tokens[starts[:-1]] = SPECIAL.index(START)
    return TextArrays(tokens, starts, generator.choice(np.array(classes, dtype=np.int64), size=count))


def tiny_text_task(
    name: str = "pairs",
    absent: Sequence[str] = (),
    sizes: Mapping[str, int] | None = None,
    source: Mapping[str, object] | None = None,
) -> TextTask:
    """A task of three classes, of which those named in `absent` never occur.

    Args:
        name: of the task.
        absent: names of classes.
        sizes: split -> number of items.
        source: where the items come from; by default of a kind that does not exist.
    """
    return TextTask(
        name,
        CLASSES,
        sizes or {"train": 32, "validation": 16, "test": 16},
        source or {"kind": "noise"},
        max_length=16,
        absent=tuple(CLASSES.index(one) for one in absent),
    )


def tiny_text_adapter(folder: Path, seed: int, rank: int = 4) -> Path:
    """Save a random LoRA adapter with a random head of three classes by PEFT; returns the folder."""
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=rank, lora_alpha=rank, target_modules=list(PROJECTIONS))
    with torch.random.fork_rng(devices=[]):
        base = LlamaForSequenceClassification(_config(num_labels=len(CLASSES)))
        model = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                scale = 0.5 / (WIDTH * rank) ** 0.5 if "lora_B" in name else 1.0
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    # Without this PEFT would ask the hub whether the base's vocabulary was resized.
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def _config(**options: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=SPECIAL.index(PAD),
        bos_token_id=SPECIAL.index(START),
        eos_token_id=SPECIAL.index(END),
        **options,
    )
