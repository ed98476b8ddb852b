"""The shipped miniature is what its model card says: formats, sizes, accuracies that make a benchmark."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from knots.adapters import load_adapter
from knots.assets import asset_path
from knots.models.clip import ClipSpec, load_clip
from knots.models.heads import class_features
from knots.suites.data import load_split
from knots.suites.miniature import TASKS
from knots.suites.tasks import parse_suite

CONF = Path(__file__).resolve().parents[2] / "conf"
ADAPTERS = "mini_clip/adapters/universe_0"
UNIVERSES = range(5)
OTHERS = range(5, 8)
"""Universes of which there are some tasks only, for sets that share no initial factors."""

OF_RANK_1 = ("digits", "textures", "signs", "land_cover")


def suite():
    files = {task: CONF / "task" / "mini_vision8" / f"{task}.yaml" for task in TASKS}
    tasks = {task: yaml.safe_load(file.read_text()) for task, file in files.items()}
    return parse_suite({"name": "mini_vision8", "modality": "vision", "tasks": tasks})


class Ruler:
    """Measures accuracies, in percent, of the base with updates folded into its tower."""

    def __init__(self, split, cache):
        self.clip = load_clip(ClipSpec("mini_clip", "asset:mini_clip/base"))
        self.tasks = {task.name: task for task in suite().tasks}
        self.data = {name: load_split(task, split, cache) for name, task in self.tasks.items()}
        self.heads = {
            name: class_features(self.clip.encode_text, task.classes, task.templates)
            for name, task in self.tasks.items()
        }
        self.take(ADAPTERS)

    def take(self, adapters, tasks=TASKS):
        """Measure another set of adapters."""
        self.adapters = {name: load_adapter(asset_path(f"{adapters}/{name}")) for name in tasks}

    @torch.inference_mode()
    def accuracy(self, name):
        images, labels = (torch.tensor(part) for part in (self.data[name].images, self.data[name].labels))
        found = [(self.clip(batch) @ self.heads[name].T).argmax(dim=1) for batch in images.split(500)]
        return 100 * (torch.cat(found) == labels).float().mean().item()

    def zero_shot(self):
        return {name: self.accuracy(name) for name in self.tasks}

    def finetuned(self):
        return {name: self.with_updates([name], 1.0, [name])[name] for name in self.adapters}

    def with_updates(self, adapters, scale, tasks):
        """Accuracies on `tasks` of the base plus `scale` times the sum of the updates of `adapters`."""
        tower = self.clip.tower
        kept = {
            module: tower.get_submodule(module).weight.data for module in self.adapters[adapters[0]].updates
        }
        for module, weight in kept.items():
            change = sum(self.adapters[name].updates[module].dense() for name in adapters)
            tower.get_submodule(module).weight.data = weight + scale * change
        try:
            return {name: self.accuracy(name) for name in tasks}
        finally:
            for module, weight in kept.items():
                tower.get_submodule(module).weight.data = weight


def mean(values):
    return sum(values.values()) / len(values)


@pytest.fixture(scope="module")
def ruler(tmp_path_factory):
    return Ruler("test", tmp_path_factory.mktemp("cache"))


def shipped():
    """Every folder of adapters that is shipped."""
    return sorted(path.parent for path in asset_path("mini_clip").rglob("adapter_config.json"))


def test_every_universe_has_every_task_and_all_that_a_set_needs():
    own_init = yaml.safe_load((CONF / "model" / "mini_clip.yaml").read_text())["own_init"]
    needed = {(universe, task) for universe in UNIVERSES for task in TASKS}
    needed |= {(universe, task) for task, row in own_init.items() for universe in row}
    root = asset_path("mini_clip/adapters")
    found = {
        (int(path.parent.name.removeprefix("universe_")), path.name)
        for path in shipped()
        if path.parent.parent == root
    }
    assert found == needed
    assert {universe for universe, _ in found} == {*UNIVERSES, *OTHERS}


def test_every_universe_has_the_adapters_of_rank_1():
    root = asset_path("mini_clip/adapters/rank_1")
    found = {str(path.relative_to(root)) for path in shipped() if root in path.parents}
    assert found == {f"universe_{universe}/{task}" for universe in UNIVERSES for task in OF_RANK_1}
    for folder in found:
        updates = load_adapter(f"asset:mini_clip/adapters/rank_1/{folder}").updates
        assert {update.rank for update in updates.values()} == {1}


def initial_a(universe, task, module="encoder.layers.0.self_attn.q_proj"):
    adapter = load_adapter(asset_path(f"mini_clip/adapters/universe_{universe}/{task}"))
    return adapter.updates[module].a


def test_tasks_of_a_universe_started_from_one_a_and_universes_did_not():
    """Training moves A, but adapters with one beginning stay closer to each other than to all others."""
    first, second, other = initial_a(1, "signs"), initial_a(1, "letters"), initial_a(2, "letters")
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(first.flatten(), second.flatten(), dim=0) > 0.5
    assert abs(cosine(first.flatten(), other.flatten(), dim=0)) < 0.2


@pytest.mark.parametrize("folder", shipped(), ids=lambda path: "/".join(path.parts[-3:]))
def test_adapters_are_small_half_precision_and_name_no_machine(folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert (folder / "adapter_model.safetensors").stat().st_size < 150_000
    text = (folder / "adapter_config.json").read_text()
    assert json.loads(text)["base_model_name_or_path"] is None
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)


def test_all_files_together_stay_small():
    files = [path for path in asset_path("mini_clip").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6_500_000


def test_the_base_is_half_precision():
    tensors = load_file(asset_path("mini_clip/base") / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}


def test_the_base_knows_every_word_of_the_prompts():
    clip = load_clip(ClipSpec("mini_clip", "asset:mini_clip/base"))
    for task in suite().tasks:
        prompts = [template.replace("{}", name) for template in task.templates for name in task.classes]
        tokens = clip.tokenizer(prompts)["input_ids"]
        assert all(clip.tokenizer.unk_token_id not in ids for ids in tokens)
        assert len({tuple(ids) for ids in tokens}) == len(prompts)


def test_the_model_card_lists_every_task():
    card = asset_path("mini_clip/MODEL_CARD.md").read_text()
    assert all(f"| {task} |" in card for task in TASKS)


@pytest.mark.slow
def test_the_accuracies_hold_on_the_test_split(ruler):
    zero_shot, finetuned = ruler.zero_shot(), ruler.finetuned()
    assert 30 <= mean(zero_shot) <= 65, zero_shot
    assert min(finetuned.values()) >= 75, finetuned
    assert mean(finetuned) >= 88, finetuned
    assert sum(finetuned[task] - zero_shot[task] >= 15 for task in TASKS) >= 6, (zero_shot, finetuned)


@pytest.mark.slow
def test_the_model_card_tells_the_accuracies(ruler):
    card = asset_path("mini_clip/MODEL_CARD.md").read_text()
    zero_shot, finetuned = ruler.zero_shot(), ruler.finetuned()
    for task in TASKS:
        row = next(line for line in card.splitlines() if line.startswith(f"| {task} |"))
        told = [float(cell) for cell in row.split("|")[4:6]]
        assert told == pytest.approx([zero_shot[task], finetuned[task]], abs=0.5)


@pytest.mark.slow
def test_universes_are_as_good_as_one_another(ruler):
    card = asset_path("mini_clip/MODEL_CARD.md").read_text()
    averages = {}
    for universe in UNIVERSES:
        ruler.take(f"mini_clip/adapters/universe_{universe}")
        finetuned = ruler.finetuned()
        averages[universe] = mean(finetuned)
        row = next(line for line in card.splitlines() if line.startswith(f"| universe {universe} |"))
        told = [float(cell) for cell in row.split("|")[2:-1]]
        assert told == pytest.approx([*finetuned.values(), averages[universe]], abs=0.5)
    ruler.take(ADAPTERS)
    assert max(averages.values()) - min(averages.values()) < 1.5, averages


@pytest.mark.slow
def test_adapters_of_rank_1_are_what_the_model_card_tells(ruler):
    card = asset_path("mini_clip/MODEL_CARD.md").read_text()
    for universe in UNIVERSES:
        ruler.take(f"mini_clip/adapters/rank_1/universe_{universe}", OF_RANK_1)
        finetuned = ruler.finetuned()
        (row,) = [line for line in card.splitlines() if line.startswith(f"| universe {universe}, rank 1 |")]
        told = [float(cell) for cell in row.split("|")[2:-1]]
        assert told == pytest.approx([*finetuned.values(), mean(finetuned)], abs=0.5)
    ruler.take(ADAPTERS)


@pytest.mark.slow
def test_plain_task_arithmetic_leaves_head_room(ruler):
    finetuned = ruler.finetuned()
    averages = {}
    for scale in [step / 10 for step in range(1, 11)]:
        merged = ruler.with_updates(list(TASKS), scale, list(TASKS))
        averages[scale] = 100 * mean({task: merged[task] / finetuned[task] for task in TASKS})
    assert max(averages.values()) < 95, averages
