"""Pairs of sentences that tests share: a tokenizer of characters, files of every form, and a task on them."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from knots.suites.hf_datasets import no_bars
from knots.suites.tasks import TextTask
from knots.suites.texts import TextArrays, TextReading

CLASSES = ("entailment", "neutral", "contradiction")
LABELS = {0: "entailment", 1: "neutral", 2: "contradiction"}
CHARACTERS = "".join(map(chr, range(32, 127)))
BEGIN = 0

Row = Mapping[str, Any]


def character_tokenizer() -> PreTrainedTokenizerFast:
    """A token a character; a pair becomes [begin] a [begin] b, as Llama 3's tokenizer has it."""
    vocabulary = {"<begin>": BEGIN, "<pad>": 1, "<unk>": 2}
    vocabulary |= {character: number for number, character in enumerate(CHARACTERS, start=3)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<begin> $A", pair="<begin> $A <begin> $B:1", special_tokens=[("<begin>", BEGIN)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<begin>", pad_token="<pad>", unk_token="<unk>"
    )


READING = TextReading(character_tokenizer(), {"tokenizer": "characters"})


def spelt(arrays: TextArrays, item: int) -> tuple[str, str]:
    """The two sentences of an item, read back from its tokens."""
    tokens = arrays.tokens[arrays.starts[item] : arrays.starts[item + 1]].tolist()
    text = "".join("|" if token == BEGIN else CHARACTERS[token - 3] for token in tokens)
    empty, first, second = text.split("|")
    assert empty == ""
    return first, second


def all_spelt(arrays: TextArrays) -> list[tuple[str, str]]:
    return [spelt(arrays, item) for item in range(len(arrays))]


def some_rows(
    count: int, labels: Sequence[Any] = (0, 1, 2), columns: tuple[str, str, str] = ("a", "b", "label")
) -> list[dict[str, Any]]:
    """Rows whose sentences tell them apart; the labels take turns."""
    return [
        dict(zip(columns, (f"first {i}", f"second {i}", labels[i % len(labels)]), strict=True))
        for i in range(count)
    ]


def sentences(rows: Sequence[Row], first: str = "a", second: str = "b") -> list[tuple[str, str]]:
    return [(row[first], row[second]) for row in rows]


def write_rows(path: Path, rows: Sequence[Row], names: Mapping[str, Sequence[str]] | None = None) -> Path:
    """A file in the form that its ending says; `names` of classes by column, for parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(list(rows)))
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    else:
        table = datasets.Dataset.from_list([dict(row) for row in rows])
        with no_bars():
            for column, classes in (names or {}).items():
                table = table.cast_column(column, datasets.ClassLabel(names=list(classes)))
            table.to_parquet(path)
    return path


def one_task(
    path: Path | str,
    sizes: Mapping[str, int],
    *,
    absent: tuple[int, ...] = (),
    max_length: int = 200,
    **source: Any,
) -> TextTask:
    """A task on a folder or a hub id with the columns of `some_rows`."""
    columns = {"first": "a", "second": "b", "labels": LABELS}
    splits = {split: split for split in sizes}
    options = {"kind": "pairs", "path": str(path), "splits": splits, **columns, **source}
    return TextTask("claims", CLASSES, sizes, options, max_length=max_length, absent=absent)
