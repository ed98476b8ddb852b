"""PEFT's `add_weighted_adapter`, all weights 1: from loaded adapters to one more adapter of the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from _peer import Case, Update, Work, main
from peft import PeftModel
from transformers import CLIPVisionModel

MERGED = "merged"

TYPES: dict[str, str | None] = {
    "linear": None,
    "cat": None,
    "svd": None,
    "ties": "density",
    "ties_svd": "density",
    "dare_ties": "kept",
    "dare_ties_svd": "kept",
}
"""Combination type -> what its `density` is: that of TIES, or what DARE leaves. There is but one option."""


def load(work: Work) -> PeftModel:
    base = CLIPVisionModel.from_pretrained(work.base)
    names = [Path(folder).name for folder in work.adapters]
    model = PeftModel.from_pretrained(base, work.adapters[0], adapter_name=names[0])
    for name, folder in zip(names[1:], work.adapters[1:], strict=True):
        model.load_adapter(folder, adapter_name=name)
    return model


def combined(kind: str) -> Case:
    def merge(work: Work, model: PeftModel) -> PeftModel:
        names = [Path(folder).name for folder in work.adapters]
        density = {None: None, "density": work.density, "kept": 1 - work.drop}[TYPES[kind]]
        weights = [1.0] * len(names)
        model.add_weighted_adapter(names, weights, MERGED, combination_type=kind, density=density)
        return model

    def clear(_: Work, model: PeftModel) -> None:
        model.delete_adapter(MERGED)

    return Case(load, merge, read, clear)


def read(_: PeftModel, model: PeftModel) -> Iterator[tuple[str, Update]]:
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "lora_A") and MERGED in module.lora_A:
            a, b = module.lora_A[MERGED].weight, module.lora_B[MERGED].weight
            yield name, (b * module.scaling[MERGED], a)


CASES = {kind: combined(kind) for kind in TYPES}

if __name__ == "__main__":
    main(CASES, ["peft", "transformers"])
