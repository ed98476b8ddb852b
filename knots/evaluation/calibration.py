"""What data-driven merges ask of calibration items: Gram matrices for RegMean, Fisher information.

Both are measured through each task's own fine-tuned model: the task's adapter stands on the base while the
task's items, pictures or pairs of sentences, go through it. They cover every module that any of the adapters
touches, because a merge needs all tasks' numbers for each of its modules. The base is given back as it was,
also after an error.

Shapes: B items, N tokens of an item, O out features, I in features, C classes, D size of the feature space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from knots.adapters import Adapter
from knots.errors import KnotsError, unknown
from knots.evaluation.batches import Batch, TextBatch
from knots.evaluation.passes import Arrays, all_batches, computing_on, features_of, input_leaders
from knots.evaluation.tracing import Trace, watching
from knots.models.attach import attach, check_modules
from knots.models.families import Model
from knots.randomness import named_generator

Labels = Literal["sampled", "exact", "data"]

CHUNK = 1 << 24
"""Numbers that the gradients of some single items may take at once (64 MB in float32)."""

Answers = Callable[[Batch | TextBatch, Tensor], Iterator[tuple[Tensor, Tensor]]]
"""(batch, log p [B, C]) -> pairs of one class an item, int64 [B], and the weight it counts with, [B]."""


def collect_grams(
    model: Model,
    adapters: Sequence[Adapter],
    data: Sequence[Arrays],
    *,
    batch_size: int,
    device: torch.device | str,
) -> dict[str, dict[str, Tensor]]:
    """Gram matrices G = X' X / tokens of the modules' inputs, for RegMean (arXiv 2212.09849).

    X holds the inputs of all tokens of all of a task's items, through the task's own fine-tuned model.
    Modules that are given the very same input (the q, k and v projections) share one matrix: it is computed
    once, and their entries are one tensor. Sums are in float64. While one task is measured the device holds
    8 I^2 bytes for every input that is not shared.

    Args:
        model: the base, in any precision.
        adapters: one a task.
        data: each task's calibration items, in the order of the adapters.
        batch_size: images that go through the tower at once, or tokens; it changes nothing but rounding.
        device: where to compute.

    Returns:
        task -> module -> G [I, I], float32 on the CPU; what `knots.merge` takes as `grams`.

    Raises:
        KnotsError: adapters and data do not fit each other or the model, two adapters have one name, a task
            has no items, or a touched module takes no part in encoding an item.
    """
    shapes = _touched(model, adapters, data, batch_size)
    grams = {}
    with computing_on(model, torch.device(device)), torch.no_grad():
        leaders = input_leaders(model, shapes, data[0])
        sizes = {leader: shapes[leader][1] for leader in leaders.values()}
        for adapter, arrays in zip(adapters, data, strict=True):
            with attach(model.tower, adapter):
                found = _second_moments(model, sizes, arrays, batch_size)
            grams[adapter.name] = {module: found[leader] for module, leader in leaders.items()}
    return grams


def collect_fishers(
    model: Model,
    adapters: Sequence[Adapter],
    heads: Sequence[Tensor],
    data: Sequence[Arrays],
    *,
    labels: Labels,
    batch_size: int,
    device: torch.device | str,
    seed: int,
    scale: float,
    absent: Sequence[Sequence[int]] | None = None,
) -> dict[str, dict[str, Tensor]]:
    """The diagonal of the Fisher information of the touched weights (arXiv 2111.09832).

    F = mean over items x of E_{y ~ p(y|x)} (d log p(y|x) / dW)^2 at the task's own fine-tuned model, with
    p = softmax(scale * features @ head'), the task's absent classes aside. Gradients are those of single
    items: of a linear module the products g' x, summed over tokens, of a batch's output gradients and inputs.

    One batch costs a backward pass, or C of them with `exact`. The device holds the activations of a batch,
    12 bytes O * I for the gradient of at least one image, and 8 bytes O * I for every touched module; the
    result takes 4 bytes O * I a task and module on the CPU.

    Args:
        model: the base, in float32.
        adapters: one a task.
        heads: each task's head [C, D]; of CLIP its class features, rows of unit length.
        data: each task's calibration items and labels.
        labels: over which y the squares are averaged: `exact`, all classes, weighted by p; `sampled`, one
            class an item, drawn from p by a generator that `seed` and the task's name decide; `data`, the
            items' own labels (the empirical Fisher).
        batch_size: images that go through the tower at once, or tokens; it changes nothing but rounding.
        device: where to compute.
        seed: of `sampled`.
        scale: factor on the features' products with the head.
        absent: for each task the classes that it does not have; None where every task has all of its head's.

    Returns:
        task -> module -> F [O, I], float32 on the CPU; what the rule `fisher` takes as `fishers`.

    Raises:
        KnotsError: as `collect_grams`; and for a model in half precision, unknown `labels`, or labels of
            the data that the head does not have.
    """
    if labels not in get_args(Labels):
        raise unknown("kind of labels", labels, get_args(Labels))
    shapes = _touched(model, adapters, data, batch_size)
    _check_heads(model, adapters, heads, data, labels)
    fishers = {}
    with computing_on(model, torch.device(device)):
        for place, (adapter, head, arrays) in enumerate(zip(adapters, heads, data, strict=True)):
            answers = _answers(labels, named_generator(seed, adapter.name), len(arrays))
            readout = _Readout(scale * head.detach(), list(absent[place]) if absent else [])
            with attach(model.tower, adapter):
                fishers[adapter.name] = _mean_squares(model, shapes, readout, arrays, answers, batch_size)
    return fishers


@dataclass(frozen=True, eq=False)
class _Readout:
    """A scaled head [C, D], and the classes that are never the answer."""

    weight: Tensor
    absent: list[int]

    def log_p(self, features: Tensor) -> Tensor:
        """Log-probabilities [B, C] of features [B, D]."""
        logits = features @ self.weight.to(features).T
        mask = torch.zeros(len(self.weight), dtype=torch.bool, device=logits.device)
        mask[self.absent] = True
        # Not minus infinity, which has no gradient of zero.
        return logits.masked_fill(mask, torch.finfo(logits.dtype).min / 2).log_softmax(dim=1)


def _second_moments(
    model: Model, sizes: Mapping[str, int], arrays: Arrays, batch_size: int
) -> dict[str, Tensor]:
    """X' X / tokens of some modules' inputs, whose in features are given."""
    device = model.device
    totals = {name: torch.zeros(i, i, dtype=torch.float64, device=device) for name, i in sizes.items()}
    tokens = dict.fromkeys(sizes, 0)

    def add(name: str, x: Tensor, _: Tensor) -> None:
        flat = x.reshape(-1, x.shape[-1]).double()
        totals[name].addmm_(flat.T, flat)
        tokens[name] += len(flat)

    with watching(model.tower, sizes, add):
        for batch in all_batches(model, arrays, batch_size):
            features_of(model, batch)
    return {name: (total / tokens[name]).float().cpu() for name, total in totals.items()}


def _mean_squares(
    model: Model,
    shapes: Mapping[str, tuple[int, int]],
    readout: _Readout,
    arrays: Arrays,
    answers: Answers,
    batch_size: int,
) -> dict[str, Tensor]:
    """The mean over items of the squared gradients of log p(y|x), for the answers y."""
    device = model.device
    totals = {name: torch.zeros(shape, dtype=torch.float64, device=device) for name, shape in shapes.items()}
    for batch in all_batches(model, arrays, batch_size):
        _add_batch(totals, model, readout, batch, answers)
    return {name: (total / len(arrays)).float().cpu() for name, total in totals.items()}


def _add_batch(
    totals: Mapping[str, Tensor],
    model: Model,
    readout: _Readout,
    batch: Batch | TextBatch,
    answers: Answers,
) -> None:
    """Add the squared gradients of every item of a batch."""
    trace = Trace()
    with watching(model.tower, totals, trace.take):
        features = features_of(model, batch, gradients=True)
    log_p = readout.log_p(features)
    for chosen, weight in answers(batch, log_p.detach()):
        # Items do not meet in the model: the gradient of a sum is every item's own. A square root on the
        # weight, because the gradients are squared.
        score = (weight.sqrt() * log_p.gather(1, chosen[:, None])[:, 0]).sum()
        for name, x, g in trace.gradients(score):
            _add_squares(totals[name], x, g)


def _add_squares(total: Tensor, x: Tensor, g: Tensor) -> None:
    """Add the squares of every image's gradient g' x [O, I], of x [B, N, I] and g [B, N, O], to a total."""
    images = max(1, CHUNK // total.numel())
    for at in range(0, len(x), images):
        chunk = slice(at, at + images)
        total += torch.bmm(g[chunk].transpose(1, 2), x[chunk]).square_().sum(dim=0)


def _answers(labels: Labels, generator: torch.Generator, items: int) -> Answers:
    """Which classes an item's gradients are taken for. `sampled` draws one number an image, at once."""
    draws = torch.rand(items, generator=generator, dtype=torch.float64)

    def exact(_: Batch | TextBatch, log_p: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for number, p in enumerate(log_p.exp().unbind(dim=1)):
            yield torch.full_like(p, number, dtype=torch.int64), p

    def sampled(batch: Batch | TextBatch, log_p: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        reached = log_p.double().exp().cumsum(dim=1)
        # The last class takes what rounding leaves below one.
        drawn = torch.searchsorted(reached[:, :-1].contiguous(), draws[batch.items, None].to(reached))
        yield drawn[:, 0], torch.ones_like(log_p[:, 0])

    def own(batch: Batch | TextBatch, log_p: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        yield batch.labels.to(log_p.device), torch.ones_like(log_p[:, 0])

    return {"exact": exact, "sampled": sampled, "data": own}[labels]


def _touched(
    model: Model, adapters: Sequence[Adapter], data: Sequence[Arrays], batch_size: int
) -> dict[str, tuple[int, int]]:
    """(O, I) of every module that an adapter touches, in order of names, once all arguments fit."""
    if not adapters or len(data) != len(adapters):
        raise KnotsError(f"{len(adapters)} adapters and the data of {len(data)} tasks; one each is needed")
    names = [adapter.name for adapter in adapters]
    for adapter, arrays in zip(adapters, data, strict=True):
        if names.count(adapter.name) > 1:
            raise KnotsError(f"two adapters are called {adapter.name!r}; calibration goes by their names")
        if len(arrays) == 0:
            raise KnotsError(f"there are no calibration items for task {adapter.name!r}")
        check_modules(model.tower, adapter)
    if batch_size < 1:
        raise KnotsError(f"the batch size must be at least 1, got {batch_size}")
    shapes = {name: update.shape for adapter in adapters for name, update in adapter.updates.items()}
    return dict(sorted(shapes.items()))


def _check_heads(
    model: Model,
    adapters: Sequence[Adapter],
    heads: Sequence[Tensor],
    data: Sequence[Arrays],
    labels: Labels,
) -> None:
    if model.dtype not in (torch.float32, torch.float64):
        raise KnotsError(f"the model is in {model.dtype}, too coarse for squared gradients; use precision=32")
    if len(heads) != len(adapters):
        raise KnotsError(f"{len(adapters)} adapters and {len(heads)} heads; one each is needed")
    for adapter, head, arrays in zip(adapters, heads, data, strict=True):
        largest = int(arrays.labels.max())
        if labels == "data" and largest >= len(head):
            raise KnotsError(
                f"task {adapter.name!r}: the data have the label {largest}, the head {len(head)} classes"
            )
