"""The parts that runs read, one by one: each with what fetches it, and what opens it as a run does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from knots.adapters.sources import CONFIG_FILE, HEADS_FILE, WEIGHTS, locate
from knots.errors import KnotsError
from knots.models import bases
from knots.models.attach import check_modules
from knots.models.clip import Clip
from knots.models.full import locate_finetuned
from knots.models.heads import feature_files, read_features
from knots.models.task_heads import heads_file, task_heads
from knots.models.text import TextSpec, text_weights
from knots.pipelines.needs import Items, Need
from knots.pipelines.workshop import Workshop, check_zero
from knots.suites.data import cached_split, load_split
from knots.suites.tasks import Task
from knots.user_files import load_tensors

LARGE = 4 * 10**9
"""Bytes of weights above which a base is checked by its files' headers alone, not loaded."""

MULTITASK = "multitask"


@dataclass(frozen=True)
class Part:
    """One thing that runs read.

    Attributes:
        what: it is, as "adapter of mnist".
        where: it comes from: a hub id, a folder, an asset.
        key: tells it from all other parts.
        fetch: gets it to this machine; what is here already is not fetched again.
        check: opens it as a run does, and gives its files. Both raise `KnotsError` where that fails.
        base: key of the base without which it cannot be had; None for what stands alone.
    """

    what: str
    where: str
    key: str
    fetch: Callable[[], object]
    check: Callable[[], Sequence[Path]]
    base: str | None = None


def parts_of(needs: Sequence[Need]) -> list[Part]:
    """Everything that is needed, each thing once; parts of one base share what they load."""
    shops: dict[Any, Workshop] = {}
    found: dict[str, Part] = {}
    for need in needs:
        same = (need.model.spec, need.model.updates, need.precision, need.data, need.cache_dir)
        if same not in shops:
            shops[same] = Workshop(
                need.model,
                need.suite,
                precision=need.precision,
                data=need.data,
                cache_dir=need.cache_dir,
                keeps=False,
            )
        for part in _parts(need, shops[same]):
            found.setdefault(part.key, part)
    return list(found.values())


def _parts(need: Need, shop: Workshop) -> Iterator[Part]:
    model = need.model
    base = _base(need, shop)
    yield base
    if model.text is not None and need.scored:
        yield _text(shop, model.text)
    if need.adapters:
        if model.pretrained is not None:
            yield _stand_in(model.pretrained)
        if model.heads is not None and need.scored and need.heads:
            yield _heads_file(model.heads, need.cache_dir)
        for name in need.suite.task_names:
            yield _adapter(need, shop, base, name, model.adapter_of(name))
    if need.multitask and model.multitask_place is not None:
        yield _adapter(need, shop, base, MULTITASK, model.multitask_place)
    for items in need.items:
        for task in need.suite.tasks:
            yield _split(need, shop, base, task, items)
    if need.scored and need.heads and need.suite.modality == "vision":
        yield _features(need, shop, base)


def _key(*what: object) -> str:
    """Plans hold mappings, which have no hash; what they print has all that is in them."""
    return repr(what)


def _base(need: Need, shop: Workshop) -> Part:
    model = need.model

    def fetch() -> None:
        shop.base  # noqa: B018 - found, or downloaded
        shop.reading  # noqa: B018

    def check() -> Sequence[Path]:
        fetch()
        if _is_large(shop):
            bases.check_headers(shop.base)
        else:
            shop.model  # noqa: B018 - loaded
        return bases.files_of(shop.base)

    where = model.base if model.revision is None else f"{model.base}@{model.revision}"
    return Part("base", where, _key("base", model.family, where), fetch, check)


def _is_large(shop: Workshop) -> bool:
    return sum(path.stat().st_size for path in bases.weights_of(shop.base)) > LARGE


def _text(shop: Workshop, spec: TextSpec) -> Part:
    def fetch() -> Path:
        shop.text  # noqa: B018 - which commit it is
        return text_weights(spec)

    def check() -> Sequence[Path]:
        file = fetch()
        bases.weights_in(file)
        return [file]

    where = f"open_clip {spec.open_clip} ({spec.weights})"
    return Part("text tower", where, _key("text", spec), fetch, check)


def _stand_in(place: str) -> Part:
    def check() -> Sequence[Path]:
        check_zero(place)
        return _adapter_files(place)

    return Part("stand-in of the base", place, _key("zero", place), lambda: check_zero(place), check)


def _heads_file(place: str, cache_dir: Path) -> Part:
    def check() -> Sequence[Path]:
        file = heads_file(place, cache_dir)
        load_tensors(file, f"file of heads {place!r}")
        return [file]

    key = _key("file of heads", place, cache_dir)
    return Part("file of heads", place, key, lambda: heads_file(place, cache_dir), check)


def _adapter(need: Need, shop: Workshop, base: Part, name: str, place: str) -> Part:
    full = need.model.updates == "full"
    own_head = need.scored and need.heads and need.suite.modality == "language"
    file = None if name == MULTITASK else need.model.heads

    def check() -> Sequence[Path]:
        adapter = shop.load(place, name)
        tower = _tower(shop)
        if tower is not None:
            check_modules(tower, adapter)
        if own_head:
            task_heads([adapter], file, need.cache_dir)
        return _finetuned_files(place) if full else _adapter_files(place)

    kind = "full fine-tune" if full else "adapter"
    what = f"{kind} of all tasks" if name == MULTITASK else f"{kind} of {name}"
    key = _key("adapter", name, place, base.key)
    # An adapter can be loaded without its base; a whole model only beside it.
    return Part(what, place, key, lambda: shop.load(place, name), check, base.key if full else None)


def _tower(shop: Workshop) -> nn.Module | None:
    """What adapters attach to; None where the base is large, or is not here, which its own part tells."""
    with suppress(KnotsError):
        if not _is_large(shop):
            return shop.model.tower
    return None


def _adapter_files(place: str) -> list[Path]:
    return _those_in(locate(place, None), (CONFIG_FILE, *WEIGHTS, HEADS_FILE))


def _finetuned_files(place: str) -> list[Path]:
    return _those_in(locate_finetuned(place), ("config.json", *bases.WEIGHTS))


def _those_in(folder: Path, names: Sequence[str]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()]


def _split(need: Need, shop: Workshop, base: Part, task: Task, items: Items) -> Part:
    split, sample = items.split, items.sample
    count = "" if sample is None else f"{sample.count} items of the "
    what = f"{count}{split} split of {task.name}"

    def fetch() -> None:
        load_split(task, split, need.cache_dir, shop.reading, sample)

    def check() -> Sequence[Path]:
        folder = cached_split(task, split, need.cache_dir, shop.reading, sample)
        if folder is None:
            raise KnotsError(f"it is not in the cache {need.cache_dir}, or is damaged there")
        fetch()  # what a run would refuse, as broken pictures
        return list(folder.iterdir())

    where = str(task.source.get("path", task.source["kind"]))
    key = _key("items", task, items, need.data, need.cache_dir, base.key)
    return Part(what, where, key, fetch, check, base.key)


def _features(need: Need, shop: Workshop, base: Part) -> Part:
    tasks, cpu = need.suite.image_tasks, torch.device("cpu")

    def fetch() -> None:
        shop.over(need.suite).class_heads(cpu)

    def check() -> Sequence[Path]:
        assert isinstance(shop.model, Clip)
        files = feature_files(shop.model, tasks, need.cache_dir)
        absent = [t.name for t, file in zip(tasks, files, strict=True) if read_features(file) is None]
        if absent:
            raise KnotsError(
                f"those of {', '.join(absent)} are not in the cache {need.cache_dir}, or are damaged there"
            )
        return files

    what = f"class features of {need.suite.name}"
    # Where items come from does not matter here.
    named = [replace(task, sizes={}, source={}) for task in tasks]
    key = _key("features", named, need.model.text, need.cache_dir, base.key)
    return Part(what, "embedded here", key, fetch, check, base.key)
