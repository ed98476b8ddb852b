"""Pretrain the miniature decoder: a small Llama that reads documents of `knots.suites.mini_nli.corpus`.

The loss is the plain one of a language model, the cross-entropy of every next token.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from knots.errors import KnotsError
from knots.files import whole_folder
from knots.suites.mini_nli.corpus import CorpusStyle, Document, documents, vocabulary
from knots.training import build_trainer, cosine_schedule, parse_options, seeded

log = logging.getLogger(__name__)

PAD, START, UNKNOWN = SPECIAL = ("<pad>", "<s>", "<unk>")
"""The first tokens, numbered from 0."""
CONTEXT = 128
"""The most tokens of a document."""


@dataclass(frozen=True)
class LlamaShape:
    """The size of a miniature Llama; several heads share one pair of keys and values, as in the real one."""

    width: int
    layers: int
    heads: int
    key_value_heads: int
    feed_forward: int


@dataclass(frozen=True)
class LlamaPlan:
    """How long and on what a Llama is trained.

    Attributes:
        steps: optimizer steps, of `batch_size` documents each; no document is read twice.
        learning_rate: the highest one, after `warmup` steps; a cosine leads it to zero.
        weight_decay: AdamW's.
        clip: the largest norm of a step's gradient.
        precision: of the trainer: 32-true, or bf16-mixed, which some CPUs compute twice as fast.
        seed: of everything: documents and weights.
        corpus: what the documents are made of.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int
    weight_decay: float
    clip: float
    precision: str
    seed: int
    corpus: CorpusStyle


def parse_shape(config: Mapping[str, Any]) -> LlamaShape:
    """Read a shape from plain values; KnotsError for a key that is unknown, absent or out of range."""
    shape = parse_options(LlamaShape, config, "shape")
    if shape.heads < 1 or shape.width % shape.heads or (shape.width // shape.heads) % 2:
        raise KnotsError(
            f"shape.width={shape.width} must be an even number for each of shape.heads={shape.heads}"
        )
    if shape.key_value_heads < 1 or shape.heads % shape.key_value_heads:
        raise KnotsError(
            f"shape.heads={shape.heads} must be a multiple of shape.key_value_heads={shape.key_value_heads}"
        )
    return shape


def parse_plan(config: Mapping[str, Any]) -> LlamaPlan:
    """Read a plan from plain values; KnotsError for a key that is unknown, absent or out of range."""
    corpus = parse_options(CorpusStyle, config.get("corpus", {}), "plan.corpus")
    for name in ("facts", "asked", "conclusions", "wrong"):
        share = getattr(corpus, name)
        if share > 1:
            raise KnotsError(f"plan.corpus.{name} must be a share in [0, 1], got {share}")
    return parse_options(LlamaPlan, {**config, "corpus": corpus}, "plan")


def build_reader(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words that joins two texts as Llama does: `<s> first <s> second`."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A",
        pair=f"{START} $A {START} $B",
        special_tokens=[(START, vocabulary[START])],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD, bos_token=START, unk_token=UNKNOWN,
        padding_side="right", model_max_length=CONTEXT, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def build_llama(shape: LlamaShape, tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
    """A LlamaForCausalLM with fresh weights that `seed` decides; it predicts with its embeddings."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=None,
        tie_word_embeddings=True,
        # The usual 0.02 suits widths of thousands: so narrow a model would start too near to zero to move.
        initializer_range=shape.width**-0.5,
    )
    with seeded(seed):
        model: Any = LlamaForCausalLM(config)
    # On a CPU twice as fast to train in bfloat16 as the fused one.
    model.set_attn_implementation("eager")
    return model


class DocumentBatches(IterableDataset[tuple[Tensor, Tensor]]):
    """Endless batches of new documents: tokens int64 [B, N] and what is to be learnt of them, bool [B, N].

    Shorter documents are filled up on the right, with token 0.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, plan: LlamaPlan) -> None:
        self.numbers, self.start = tokenizer.get_vocab(), tokenizer.bos_token_id
        self.plan = plan

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        texts = documents(self.plan.corpus, self.plan.seed)
        while True:
            rows = [self._tokens(document) for document in islice(texts, self.plan.batch_size)]
            tokens, learnt = (pad_sequence(list(part), batch_first=True) for part in zip(*rows, strict=True))
            yield tokens, learnt

    def _tokens(self, document: Document) -> tuple[Tensor, Tensor]:
        """One document, [N] each. What nothing foretells is read but not learnt."""
        tokens, learnt = [], []
        for paragraph in document:
            given, follows = paragraph.given.split(), paragraph.follows.split()
            tokens += [self.start, *(self.numbers[word] for word in given + follows)]
            learnt += [False] * (1 + len(given)) + [True] * len(follows)
        return torch.tensor(tokens)[:CONTEXT], torch.tensor(learnt)[:CONTEXT]


class LlamaPretraining(L.LightningModule):
    """Teaches a Llama what comes next.

    Shapes: B documents, N tokens of the longest.
    """

    def __init__(self, model: Any, plan: LlamaPlan) -> None:
        super().__init__()
        self.model, self.plan = model, plan

    def training_step(self, batch: tuple[Tensor, Tensor], step: int) -> Tensor:
        """Mean cross-entropy of the tokens int64 [B, N] that are to be learnt, bool [B, N]."""
        tokens, learnt = batch
        hidden = self.model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
        wanted = learnt[:, 1:]
        loss = F.cross_entropy(self.model.lm_head(hidden[wanted]).float(), tokens[:, 1:][wanted])
        if step % 250 == 0:
            log.info("step %d: loss %.3f", self.global_step, float(loss.detach()))
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW with a linear warm-up and a cosine."""
        plan = self.plan
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=plan.weight_decay
        )
        return cosine_schedule(optimizer, plan.warmup, plan.steps)


def pretrain_llama(shape: LlamaShape, plan: LlamaPlan, folder: Path, trainer: Mapping[str, Any]) -> None:
    """Train a Llama on fresh documents and save it in float16 as a folder that transformers loads.

    Args:
        shape: the size of the model.
        plan: how to train it.
        folder: where it goes; it appears when it is complete, an older one is replaced.
        trainer: further options of `lightning.Trainer`, such as accelerator, devices, callbacks.
    """
    tokenizer = build_reader(vocabulary())
    model = build_llama(shape, tokenizer, plan.seed)
    module = LlamaPretraining(model, plan)
    batches = DataLoader(DocumentBatches(tokenizer, plan), batch_size=None)
    own = {"gradient_clip_val": plan.clip, "precision": plan.precision}
    with seeded(plan.seed):
        build_trainer(plan.steps, {**trainer, **own}).fit(module, batches)
    with whole_folder(folder) as unfinished:
        model.to(torch.float16).save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
    log.info("saved %s", folder)
