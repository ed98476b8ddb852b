"""The miniature Llama with words for real sentences: their embeddings are random, the rest is as it ships."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from knots.assets import asset_path


def widen(folder: Path, texts: Iterable[str], least: int = 2) -> Path:
    """Save the miniature with a word more for each that occurs `least` times or more in the texts."""
    shutil.copytree(asset_path("mini_llama/base"), folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    counts = Counter(word for text in texts for word in text.split())
    for word in sorted(word for word, count in counts.items() if count >= least and word not in vocabulary):
        vocabulary[word] = len(vocabulary)
    file.write_text(json.dumps(content), encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    old = model.get_input_embeddings().weight.detach().clone()
    generator = torch.Generator().manual_seed(0)
    wider = float(old.std()) * torch.randn(len(vocabulary), old.shape[1], generator=generator)
    wider[: len(old)] = old
    model.resize_token_embeddings(len(vocabulary), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(wider)
    model.save_pretrained(folder)
    return folder
