"""Whatever is not here, or damaged, is named; nothing else is."""

import os
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, Self

import huggingface_hub.constants
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save, save_file

from knots.errors import KnotsError
from knots.models.text import TextSpec
from knots.pipelines import MergePlan, parts
from knots.pipelines.model_plan import ModelPlan
from knots.pipelines.needs import Need, merge_need
from knots.pipelines.prefetch import State, _offline, check, complaint, fetch, run_prefetch, states_view
from knots.suites.data import DataOptions
from knots.suites.tasks import Suite
from tests.hub import Hub
from tests.language import tiny_llama, tiny_text_adapter, tiny_text_task
from tests.miniatures import tiny_adapter, tiny_clip, tiny_suite

TASKS = tiny_suite().task_names


@pytest.fixture
def need(plan: Callable[..., MergePlan], tmp_path: Path) -> Need:
    """Of a run of the tiny CLIP, whose files are the test's own."""
    tiny_clip(tmp_path / "base")
    for seed, task in enumerate(TASKS):
        tiny_adapter(tmp_path / "adapters" / task, seed=seed)
    model = ModelPlan("tiny", "clip", str(tmp_path / "base"), None, str(tmp_path / "adapters" / "{task}"))
    return merge_need(plan(model=model))


def missing(need: Need) -> dict[str, str]:
    """What a check names, and why."""
    return {state.what: state.reason for state in check([need]).values() if state.reason is not None}


def test_what_was_fetched_is_here_and_has_a_size(need: Need):
    items = {f"test split of {task}" for task in TASKS}
    assert set(missing(need)) == {*items, "class features of tiny"}
    assert fetch([need]) == {}
    states = list(check([need]).values())
    assert [state.reason for state in states] == [None] * len(states)
    assert all(state.size > 0 for state in states)
    assert [state.what for state in states] == [
        "base",
        *(f"adapter of {task}" for task in TASKS),
        *(f"test split of {task}" for task in TASKS),
        "class features of tiny",
    ]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


def turn(file: Path) -> None:
    """One bit is another one."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


DAMAGE = [
    ("adapters/digits/adapter_model.safetensors", cut, {"adapter of digits"}),
    ("adapters/digits/adapter_config.json", Path.unlink, {"adapter of digits"}),
    ("cache/data/digits-*/images.npy", cut, {"test split of digits"}),
    ("cache/data/digits-*/images.npy", turn, {"test split of digits"}),
    ("cache/data/digits-*/labels.npy", turn, {"test split of digits"}),
    ("cache/data/digits-*/manifest.json", Path.unlink, {"test split of digits"}),
    ("cache/heads/digits-*.safetensors", cut, {"class features of tiny"}),
    ("cache/heads/digits-*.safetensors", Path.unlink, {"class features of tiny"}),
]


@pytest.mark.parametrize(("pattern", "harm", "named"), DAMAGE)
def test_damage_is_named_and_mended_by_fetching(
    need: Need, tmp_path: Path, pattern: str, harm: Callable[[Path], None], named: set[str]
):
    fetch([need])
    (file,) = tmp_path.glob(pattern)
    harm(file)
    assert set(missing(need)) == named
    if pattern.startswith("cache"):
        assert fetch([need]) == {}
        assert missing(need) == {}


def test_without_the_base_only_its_adapters_are_of_use(need: Need, tmp_path: Path):
    fetch([need])
    (tmp_path / "base" / "model.safetensors").unlink()
    found = missing(need)
    assert "model.safetensors" in found.pop("base")
    assert set(found) == {*(f"test split of {task}" for task in TASKS), "class features of tiny"}
    assert set(found.values()) == {"it cannot be had without the base"}


def test_an_adapter_that_does_not_fit_the_base_is_named(need: Need, tmp_path: Path):
    fetch([need])
    file = tmp_path / "adapters" / "digits" / "adapter_model.safetensors"
    save_file({key.replace("layers.0", "layers.7"): t for key, t in load_file(file).items()}, file)
    ((what, reason),) = missing(need).items()
    assert what == "adapter of digits"
    assert "layers.7" in reason


def test_a_large_base_is_not_loaded_but_its_files_are_looked_at(
    need: Need, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parts, "LARGE", 0)
    language_like = replace(need, heads=False)  # class features are embedded by the base itself

    def not_loaded(*_: object) -> None:
        raise AssertionError("the base was loaded")

    monkeypatch.setattr("knots.models.clip.CLIPModel.from_pretrained", not_loaded)
    fetch([language_like])
    assert missing(language_like) == {}
    cut(tmp_path / "base" / "model.safetensors")
    assert "truncated or damaged" in missing(language_like)["base"]


def test_a_text_tower_of_its_own_comes_from_the_hub(
    hub: Hub, need: Need, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parts, "LARGE", 0)  # so that nobody asks whether both towers are of one CLIP
    text = TextSpec("ViT-B-32-quickgelu", "openai")
    own = replace(need, model=replace(need.model, text=text), heads=False)
    repository = open_clip.get_pretrained_cfg(text.open_clip, text.weights)["hf_hub"].rstrip("/")
    failed = fetch([own])
    assert len(failed) == 1
    assert f"{repository!r}" in next(iter(failed.values()))
    weights = save({"token_embedding.weight": torch.ones(9, 9)})
    hub.models[repository] = {"open_clip_config.json": b"{}", "open_clip_model.safetensors": weights}
    assert fetch([own]) == {}
    hub.stop()
    assert missing(own) == {}
    (file,) = (tmp_path / "huggingface").rglob("snapshots/*/open_clip_model.safetensors")
    cut(file.resolve())
    assert "truncated or damaged" in missing(own)["text tower"]


# Of a part of the change that is no task update, which a run tells too.
@pytest.mark.filterwarnings("ignore:full fine-tune")
def test_full_fine_tunes_are_held_against_their_base(need: Need, tmp_path: Path):
    for seed, task in enumerate(TASKS, start=1):
        tiny_clip(tmp_path / "full" / task, seed=seed)
    place = str(tmp_path / "full" / "{task}")
    full = replace(need, model=replace(need.model, adapters=place, updates="full"), items=(), scored=False)
    assert fetch([full]) == {}
    assert missing(full) == {}
    cut(tmp_path / "full" / "digits" / "model.safetensors")
    assert set(missing(full)) == {"full fine-tune of digits"}
    (tmp_path / "base" / "config.json").write_text("{}")
    assert set(missing(full)) == {"base", *(f"full fine-tune of {task}" for task in TASKS)}


def test_a_file_of_heads_is_read(tmp_path: Path):
    tiny_llama(tmp_path / "base")
    tiny_text_adapter(tmp_path / "adapters" / "pairs", seed=0)
    heads = tmp_path / "heads.safetensors"
    model = ModelPlan(
        "tiny",
        "classifier",
        str(tmp_path / "base"),
        None,
        str(tmp_path / "adapters" / "{task}"),
        heads=str(heads),
    )
    suite = Suite("tiny", "language", (tiny_text_task(),))
    need = Need(model, suite, "32", DataOptions(), tmp_path / "cache", items=())
    assert "is not there" in next(iter(fetch([need]).values()))
    save_file({"pairs": torch.ones(3, 16)}, heads)
    assert fetch([need]) == {}
    assert missing(need) == {}
    save_file({"pairs": torch.ones(3)}, heads)
    assert "a matrix [C, D] is needed" in missing(need)["adapter of pairs"]


def test_a_process_that_is_killed_while_it_checks_is_told(need: Need, monkeypatch: pytest.MonkeyPatch):
    class Killed:
        def __init__(self, *_: object, **__: object) -> None: ...

        def submit(self, *_: object) -> NoReturn:
            raise BrokenProcessPool

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("knots.pipelines.prefetch.ProcessPoolExecutor", Killed)
    with pytest.raises(KnotsError, match=r"was killed .*fetch=false checks it again"):
        run_prefetch([need], fetches=False)


def test_rows_of_the_same_model_need_each_part_once(need: Need):
    once = [part.what for part in parts.parts_of([need])]
    assert [part.what for part in parts.parts_of([need, replace(need), need])] == once
    other = replace(need, model=replace(need.model, adapters="/elsewhere/{task}"))
    both = [part.what for part in parts.parts_of([need, other])]
    assert sorted(both) == sorted([*once, *(f"adapter of {task}" for task in TASKS)])


def test_a_reason_of_fetching_stands_before_that_of_looking(need: Need, monkeypatch: pytest.MonkeyPatch):
    key, *_ = (part.key for part in parts.parts_of([need]))
    found = {key: State("base", "me/x", 0, "it is not in the cache")}
    monkeypatch.setattr("knots.pipelines.prefetch.check_apart", lambda _: found)
    monkeypatch.setattr("knots.pipelines.prefetch.fetch", lambda _: {key: "it is gated"})
    assert [state.reason for state in run_prefetch([need])] == ["it is gated"]
    assert [state.reason for state in run_prefetch([need], fetches=False)] == ["it is not in the cache"]


def test_the_process_that_checks_has_the_caches_of_this_one_and_no_hub(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/some/hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    with _offline():
        assert (os.environ["HF_HUB_OFFLINE"], os.environ["HF_HUB_CACHE"]) == ("1", "/some/hub")
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    assert "HF_HUB_CACHE" not in os.environ


def test_what_is_said_of_what_is_missing():
    here = State("base", "me/x", 10, None)
    lost = [State(f"adapter of {name}", "me/y", 0, "gone") for name in "abcde"]
    assert complaint([here]) is None
    assert complaint([here, lost[0]]) == "1 of 2 parts are not here, the others are: adapter of a: gone"
    assert complaint([*lost[:2]]) == "2 of 2 parts are not here: adapter of a, adapter of b: gone"
    many = complaint([here, *lost, State("test split of a", "me/z", 0, "full")])
    assert many == (
        "6 of 7 parts are not here, the others are: adapter of a, adapter of b, adapter of c and 2 more: "
        "gone; test split of a: full"
    )
    assert states_view([here, *lost]).row_count == 6
