"""The shipped decoder is what its model card says: formats, sizes, accuracies that make a benchmark."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file

from knots.adapters import load_adapter
from knots.assets import asset_path
from knots.models.classifier import ClassifierSpec, classifier_reading, load_classifier
from knots.suites.mini_nli import TASKS, draw_pairs
from knots.suites.tasks import parse_suite

CONF = Path(__file__).resolve().parents[2] / "conf"
SAMPLE = 1000
"""Test items a task when time is short; the shipped accuracies are far enough above the bar for that."""


def suite():
    files = {task: CONF / "task" / "mini_nli6" / f"{task}.yaml" for task in TASKS}
    tasks = {task: yaml.safe_load(file.read_text()) for task, file in files.items()}
    return parse_suite({"name": "mini_nli6", "modality": "language", "tasks": tasks})


class Ruler:
    """Measures accuracies, in percent, on the first items of a split."""

    def __init__(self):
        self.classifier = load_classifier(ClassifierSpec("mini_llama", "asset:mini_llama/base"))
        self.tokenizer = classifier_reading(self.classifier.base).tokenizer
        self.tasks = {task.name: task for task in suite().text_tasks}
        self.adapters = {name: load_adapter(f"asset:mini_llama/adapters/{name}") for name in self.tasks}

    def features(self, name, split, count):
        """What a head reads [N, D], and the labels [N]."""
        firsts, seconds, labels = draw_pairs(name, split, count, self.tasks[name].source["seed"])
        rows = self.tokenizer(firsts, seconds, padding=True, return_tensors="pt")
        tokens, lengths = rows["input_ids"], rows["attention_mask"].sum(dim=1)
        with torch.no_grad():
            parts = zip(tokens.split(500), lengths.split(500), strict=True)
            return torch.cat([self.classifier(*part) for part in parts]), torch.from_numpy(labels)

    def scored(self, name, features, head, labels):
        scores = features @ head.T
        scores[:, list(self.tasks[name].absent)] = -torch.inf
        return 100 * (scores.argmax(dim=1) == labels).float().mean().item()

    def majority(self, name, count):
        labels = draw_pairs(name, "test", count, self.tasks[name].source["seed"])[2]
        return float(100 * np.bincount(labels).max() / count)

    def finetuned(self, name, count):
        tower = self.classifier.tower
        updates = self.adapters[name].updates
        kept = {module: tower.get_submodule(module).weight.data for module in updates}
        for module, weight in kept.items():
            tower.get_submodule(module).weight.data = weight + updates[module].dense()
        try:
            features, labels = self.features(name, "test", count)
        finally:
            for module, weight in kept.items():
                tower.get_submodule(module).weight.data = weight
        return self.scored(name, features, self.adapters[name].heads["score.weight"], labels)

    def frozen(self, name, count):
        """A head of its own for the untouched backbone, on standardized features (convex: one best head)."""
        features, labels = self.features(name, "train", 4000)
        mean, spread = features.mean(dim=0), features.std(dim=0)
        head = logistic_regression((features - mean) / spread, labels, self.tasks[name].absent)
        features, labels = self.features(name, "test", count)
        ones = torch.ones(len(features), 1)
        return self.scored(name, torch.cat([(features - mean) / spread, ones], dim=1), head, labels)


def logistic_regression(features, labels, absent):
    """Weights [3, D + 1], the last column for a one that is added to every item."""
    inputs = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    head = torch.zeros(3, inputs.shape[1], requires_grad=True)
    mask = torch.zeros(3)
    mask[list(absent)] = -1e4
    optimizer = torch.optim.LBFGS([head], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(inputs @ head.T + mask, labels) + 1e-4 * head.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return head.detach()


@pytest.fixture(scope="module")
def ruler():
    return Ruler()


def test_adapters_are_above_the_bar_on_a_sample_of_the_test_split(ruler):
    for task in TASKS:
        found, majority = ruler.finetuned(task, SAMPLE), ruler.majority(task, SAMPLE)
        assert found >= max(80, majority + 15), task


@pytest.mark.slow
def test_the_accuracies_hold_on_the_test_split_and_the_model_card_tells_them(ruler):
    gaps = []
    for task in TASKS:
        count = ruler.tasks[task].size("test")
        found = (ruler.majority(task, count), ruler.frozen(task, count), ruler.finetuned(task, count))
        assert told(task) == pytest.approx(found, abs=0.5)
        assert found[2] >= max(80, found[0] + 15), task
        gaps.append(found[2] - found[1])
    assert sum(gap >= 10 for gap in gaps) >= 4, gaps


@pytest.mark.slow
def test_the_adapter_of_all_tasks_is_what_the_model_card_tells(ruler):
    own = ruler.adapters
    try:
        ruler.adapters = dict.fromkeys(TASKS, load_adapter("asset:mini_llama/multitask"))
        found = [ruler.finetuned(task, ruler.tasks[task].size("test")) for task in TASKS]
    finally:
        ruler.adapters = own
    card = " ".join(asset_path("mini_llama/MODEL_CARD.md").read_text().split())
    listed = re.search(r"in the order above: ([\d., ]+), average ([\d.]+)\.", card)
    assert [float(one) for one in listed[1].split(", ")] == pytest.approx(found, abs=0.5)
    assert float(listed[2]) == pytest.approx(np.mean(found), abs=0.3)


def told(task):
    """Majority, frozen head and adapter on the test split, of the card's table of eight columns."""
    lines = asset_path("mini_llama/MODEL_CARD.md").read_text().splitlines()
    (cells,) = [line.split("|") for line in lines if line.startswith(f"| {task} |") and line.count("|") == 9]
    return [float(cells[place]) for place in (2, 6, 7)]


@pytest.mark.parametrize("name", [*(f"adapters/{task}" for task in TASKS), "multitask"])
def test_adapters_are_small_half_precision_and_name_no_machine(name):
    folder = asset_path(f"mini_llama/{name}")
    tensors = load_file(folder / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    text = (folder / "adapter_config.json").read_text()
    assert json.loads(text)["base_model_name_or_path"] is None
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)


def test_all_adapters_change_the_same_modules_and_have_a_head(ruler):
    for task, adapter in ruler.adapters.items():
        assert adapter.heads["score.weight"].shape == (3, ruler.classifier.width), task
        assert set(adapter.updates) == set(ruler.adapters["scenes"].updates)


def test_all_files_together_are_small_and_none_is_a_pickle():
    files = [path for path in asset_path("mini_llama").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4_000_000
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors"}


def test_the_base_is_half_precision_and_shares_keys_and_values(ruler):
    tensors = load_file(asset_path("mini_llama/base") / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    config = ruler.classifier.model.config
    assert config.num_key_value_heads < config.num_attention_heads


def test_the_tokenizer_knows_every_word_of_the_tasks(ruler):
    for task in TASKS:
        firsts, seconds, _ = draw_pairs(task, "test", 2000, 0)
        rows = ruler.tokenizer(firsts, seconds)["input_ids"]
        assert not any(ruler.tokenizer.unk_token_id in row for row in rows)
        assert max(map(len, rows)) <= ruler.tasks[task].max_length


def test_the_model_card_lists_every_task():
    card = asset_path("mini_llama/MODEL_CARD.md").read_text()
    assert all(f"| {task} |" in card for task in TASKS)
