"""The miniature base with a larger vocabulary: its own tower, and prompts of any words.

The shipped tokenizer knows the words of the drawn tasks only, so the class names of real data sets would be
many times the same unknown word. Here every further word, and every further place in a prompt, gets a random
embedding.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast

from knots.assets import asset_path

PLACES = 48
"""Tokens of the longest prompt."""


def widen(folder: Path, prompts: Iterable[str]) -> Path:
    """Save the miniature base with all words of the prompts."""
    base = asset_path("mini_clip/base")
    model = CLIPModel.from_pretrained(base, dtype=torch.float32)
    old = AutoTokenizer.from_pretrained(base)
    tokenizer = _with_words(old, sorted({w for p in prompts for w in re.findall(r"\w+|[^\w\s]+", p)}))
    generator = torch.Generator().manual_seed(0)
    embeddings = model.text_model.embeddings
    words = _longer(embeddings.token_embedding.weight, len(tokenizer), generator)
    places = _longer(embeddings.position_embedding.weight, PLACES, generator)
    config = model.config
    config.text_config.vocab_size, config.text_config.max_position_embeddings = len(tokenizer), PLACES
    wider = CLIPModel(config)
    state = {
        **model.state_dict(),
        "text_model.embeddings.token_embedding.weight": words,
        "text_model.embeddings.position_embedding.weight": places,
    }
    state.pop("text_model.embeddings.position_ids", None)
    wider.load_state_dict(state, strict=False)
    wider.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil.from_pretrained(base).save_pretrained(folder)
    return folder


def _with_words(old: PreTrainedTokenizerFast, words: list[str]) -> PreTrainedTokenizerFast:
    """The tokenizer with further words behind those it has."""
    content = json.loads(old.backend_tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    for word in words:
        vocabulary.setdefault(word, len(vocabulary))
    special = {name: getattr(old, f"{name}_token") for name in ("pad", "unk", "bos", "eos")}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        model_max_length=PLACES,
        **{f"{name}_token": token for name, token in special.items()},
    )


def _longer(weight: torch.Tensor, rows: int, generator: torch.Generator) -> torch.Tensor:
    """The rows of an embedding, and random ones of the same spread behind them."""
    more = torch.randn(rows - len(weight), weight.shape[1], generator=generator)
    return torch.cat([weight.detach(), weight.std() * more])
