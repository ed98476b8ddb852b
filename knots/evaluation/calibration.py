"""What data-driven merges ask of calibration images: Gram matrices for RegMean, Fisher information.

Both are measured through each task's own fine-tuned model: the task's adapter stands on the base while the
task's images go through it. They cover every module that any of the adapters touches, because a merge needs
all tasks' numbers for each of its modules. The base is given back as it was, also after an error.

Shapes: B images, N tokens of an image, O out features, I in features, C classes, D size of the feature space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from knots.adapters import Adapter
from knots.errors import KnotsError, unknown
from knots.evaluation.batches import Batch, ShardedBatches
from knots.evaluation.precision import exact_float32
from knots.evaluation.tracing import Trace, watching
from knots.models.attach import attach, check_modules
from knots.models.clip import Clip
from knots.randomness import named_generator
from knots.suites.data import ImageArrays

Labels = Literal["sampled", "exact", "data"]

CHUNK = 1 << 24
"""Numbers that the gradients of some single images may take at once (64 MB in float32)."""

Answers = Callable[[Batch, Tensor], Iterator[tuple[Tensor, Tensor]]]
"""(batch, log p [B, C]) -> pairs of one class an image, int64 [B], and the weight it counts with, [B]."""


def collect_grams(
    clip: Clip,
    adapters: Sequence[Adapter],
    data: Sequence[ImageArrays],
    *,
    batch_size: int,
    device: torch.device | str,
) -> dict[str, dict[str, Tensor]]:
    """Gram matrices G = X' X / tokens of the modules' inputs, for RegMean (arXiv 2212.09849).

    X holds the inputs of all tokens of all of a task's images, through the task's own fine-tuned model.
    Modules that are given the very same input (the q, k and v projections) share one matrix: it is computed
    once, and their entries are one tensor. Sums are in float64. While one task is measured the device holds
    8 I^2 bytes for every input that is not shared.

    Args:
        clip: the base, in any precision.
        adapters: one a task.
        data: each task's calibration images, in the order of the adapters.
        batch_size: images that go through the tower at once; it changes nothing but rounding.
        device: where to compute.

    Returns:
        task -> module -> G [I, I], float32 on the CPU; what `knots.merge` takes as `grams`.

    Raises:
        KnotsError: adapters and data do not fit each other or the model, two adapters have one name, a task
            has no images, or a touched module takes no part in encoding an image.
    """
    shapes = _touched(clip, adapters, data, batch_size)
    grams = {}
    with _computing_on(clip, torch.device(device)), torch.no_grad():
        leaders = _leaders(clip, shapes, data[0])
        sizes = {leader: shapes[leader][1] for leader in leaders.values()}
        for adapter, arrays in zip(adapters, data, strict=True):
            with attach(clip.tower, adapter):
                found = _second_moments(clip, sizes, arrays, batch_size)
            grams[adapter.name] = {module: found[leader] for module, leader in leaders.items()}
    return grams


def collect_fishers(
    clip: Clip,
    adapters: Sequence[Adapter],
    heads: Sequence[Tensor],
    data: Sequence[ImageArrays],
    *,
    labels: Labels,
    batch_size: int,
    device: torch.device | str,
    seed: int,
    scale: float,
) -> dict[str, dict[str, Tensor]]:
    """The diagonal of the Fisher information of the touched weights (arXiv 2111.09832).

    F = mean over images x of E_{y ~ p(y|x)} (d log p(y|x) / dW)^2 at the task's own fine-tuned model, with
    p = softmax(scale * cosines with the task's class features). Gradients are those of single images: of a
    linear module the products g' x, summed over tokens, of a batch of output gradients and inputs.

    One batch costs a backward pass, or C of them with `exact`. The device holds the activations of a batch,
    12 bytes O * I for the gradient of at least one image, and 8 bytes O * I for every touched module; the
    result takes 4 bytes O * I a task and module on the CPU.

    Args:
        clip: the base, in float32.
        adapters: one a task.
        heads: each task's class features [C, D], rows of unit length.
        data: each task's calibration images and labels.
        labels: over which y the squares are averaged: `exact`, all classes, weighted by p; `sampled`, one
            class an image, drawn from p by a generator that `seed` and the task's name decide; `data`, the
            images' own labels (the empirical Fisher).
        batch_size: images that go through the tower at once; it changes nothing but rounding.
        device: where to compute.
        seed: of `sampled`.
        scale: factor on the cosines.

    Returns:
        task -> module -> F [O, I], float32 on the CPU; what the rule `fisher` takes as `fishers`.

    Raises:
        KnotsError: as `collect_grams`; and for a model in half precision, unknown `labels`, or labels of
            the data that the head does not have.
    """
    if labels not in get_args(Labels):
        raise unknown("kind of labels", labels, get_args(Labels))
    shapes = _touched(clip, adapters, data, batch_size)
    _check_heads(clip, adapters, heads, data, labels)
    fishers = {}
    with _computing_on(clip, torch.device(device)):
        for adapter, head, arrays in zip(adapters, heads, data, strict=True):
            answers = _answers(labels, named_generator(seed, adapter.name), len(arrays))
            with attach(clip.tower, adapter):
                fishers[adapter.name] = _mean_squares(
                    clip, shapes, scale * head.detach(), arrays, answers, batch_size
                )
    return fishers


def _second_moments(
    clip: Clip, sizes: Mapping[str, int], arrays: ImageArrays, batch_size: int
) -> dict[str, Tensor]:
    """X' X / tokens of some modules' inputs, whose in features are given."""
    device = clip.mean.device
    totals = {name: torch.zeros(i, i, dtype=torch.float64, device=device) for name, i in sizes.items()}
    tokens = dict.fromkeys(sizes, 0)

    def add(name: str, x: Tensor, _: Tensor) -> None:
        flat = x.reshape(-1, x.shape[-1]).double()
        totals[name].addmm_(flat.T, flat)
        tokens[name] += len(flat)

    with watching(clip.tower, sizes, add):
        for batch in _batches(arrays, batch_size):
            clip(batch.images.to(device))
    return {name: (total / tokens[name]).float().cpu() for name, total in totals.items()}


def _leaders(clip: Clip, modules: Mapping[str, Any], arrays: ImageArrays) -> dict[str, str]:
    """For every module the first one that is given the very same inputs, seen on one image."""
    inputs: dict[str, list[Tensor]] = {name: [] for name in modules}
    with watching(clip.tower, modules, lambda name, x, _: inputs[name].append(x)):
        clip(torch.tensor(arrays.images[:1]).to(clip.mean.device))
    first: dict[tuple[int, ...], str] = {}
    leaders = {}
    for name, tensors in inputs.items():
        if not tensors:
            raise KnotsError(f"module {name!r} has an update, but takes no part in encoding an image")
        # All inputs are still held, so no two of them can have one id.
        leaders[name] = first.setdefault(tuple(map(id, tensors)), name)
    return leaders


def _mean_squares(
    clip: Clip,
    shapes: Mapping[str, tuple[int, int]],
    head: Tensor,
    arrays: ImageArrays,
    answers: Answers,
    batch_size: int,
) -> dict[str, Tensor]:
    """The mean over images of the squared gradients of log p(y|x), for the answers y."""
    device = clip.mean.device
    totals = {name: torch.zeros(shape, dtype=torch.float64, device=device) for name, shape in shapes.items()}
    for batch in _batches(arrays, batch_size):
        _add_batch(totals, clip, head, batch, answers)
    return {name: (total / len(arrays)).float().cpu() for name, total in totals.items()}


def _add_batch(
    totals: Mapping[str, Tensor], clip: Clip, head: Tensor, batch: Batch, answers: Answers
) -> None:
    """Add the squared gradients of every image of a batch; `head` [C, D] gives the logits."""
    trace = Trace()
    # The images ask for gradients, so that the weights need not.
    pixels = clip.normalize(batch.images.to(clip.mean.device)).requires_grad_()
    with watching(clip.tower, totals, trace.take):
        features = clip(pixels)
    log_p = (features @ head.to(features).T).log_softmax(dim=1)
    for chosen, weight in answers(batch, log_p.detach()):
        # Images do not meet in the model: the gradient of a sum is every image's own. A square root on the
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


def _answers(labels: Labels, generator: torch.Generator, images: int) -> Answers:
    """Which classes an image's gradients are taken for. `sampled` draws one number an image, at once."""
    draws = torch.rand(images, generator=generator, dtype=torch.float64)

    def exact(_: Batch, log_p: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for number, p in enumerate(log_p.exp().unbind(dim=1)):
            yield torch.full_like(p, number, dtype=torch.int64), p

    def sampled(batch: Batch, log_p: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        reached = log_p.double().exp().cumsum(dim=1)
        # The last class takes what rounding leaves below one.
        drawn = torch.searchsorted(reached[:, :-1].contiguous(), draws[batch.items, None].to(reached))
        yield drawn[:, 0], torch.ones_like(log_p[:, 0])

    def own(batch: Batch, log_p: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        yield batch.labels.to(log_p.device), torch.ones_like(log_p[:, 0])

    return {"exact": exact, "sampled": sampled, "data": own}[labels]


def _touched(
    clip: Clip, adapters: Sequence[Adapter], data: Sequence[ImageArrays], batch_size: int
) -> dict[str, tuple[int, int]]:
    """(O, I) of every module that an adapter touches, in order of names, once all arguments fit."""
    if not adapters or len(data) != len(adapters):
        raise KnotsError(f"{len(adapters)} adapters and the data of {len(data)} tasks; one each is needed")
    names = [adapter.name for adapter in adapters]
    for adapter, arrays in zip(adapters, data, strict=True):
        if names.count(adapter.name) > 1:
            raise KnotsError(f"two adapters are called {adapter.name!r}; calibration goes by their names")
        if len(arrays) == 0:
            raise KnotsError(f"there are no calibration images for task {adapter.name!r}")
        check_modules(clip.tower, adapter)
    if batch_size < 1:
        raise KnotsError(f"the batch size must be at least 1, got {batch_size}")
    shapes = {name: update.shape for adapter in adapters for name, update in adapter.updates.items()}
    return dict(sorted(shapes.items()))


def _check_heads(
    clip: Clip,
    adapters: Sequence[Adapter],
    heads: Sequence[Tensor],
    data: Sequence[ImageArrays],
    labels: Labels,
) -> None:
    if clip.dtype not in (torch.float32, torch.float64):
        raise KnotsError(f"the model is in {clip.dtype}, too coarse for squared gradients; use precision=32")
    if len(heads) != len(adapters):
        raise KnotsError(f"{len(adapters)} adapters and {len(heads)} heads; one each is needed")
    for adapter, head, arrays in zip(adapters, heads, data, strict=True):
        largest = int(arrays.labels.max())
        if labels == "data" and largest >= len(head):
            raise KnotsError(
                f"task {adapter.name!r}: the data have the label {largest}, the head {len(head)} classes"
            )


def _batches(arrays: ImageArrays, batch_size: int) -> ShardedBatches:
    """All items in their own order, in one process."""
    return ShardedBatches(arrays, task=0, batch_size=batch_size, rank=0, processes=1, first=0)


@contextmanager
def _computing_on(clip: Clip, device: torch.device) -> Iterator[None]:
    """The model on a device, in exact arithmetic and outside inference mode; then back where it was."""
    home = clip.mean.device
    try:
        clip.to(device)
        with torch.inference_mode(False), torch.enable_grad(), exact_float32(device):
            yield
    finally:
        clip.to(home)
