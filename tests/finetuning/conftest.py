"""A tiny CLIP and a tiny Llama, one task of noise for each, and plans of a dozen steps."""

from dataclasses import replace

import pytest

from knots.finetuning import LanguagePlan, Origin, VisionPlan
from knots.models.classifier import ClassifierSpec, load_classifier
from knots.models.clip import ClipSpec, load_clip
from knots.suites.data import ImageArrays
from tests.language import tiny_llama, tiny_text_arrays, tiny_text_task
from tests.miniatures import tiny_arrays, tiny_clip, tiny_suite

SHORT = {
    "kind": "lora",
    "rank": 2,
    "dropout": 0.1,
    "steps": 12,
    "learning_rate": 1e-2,
    "warmup": 2,
    "validate_every": 4,
    "patience": 5,
    "min_delta": 0.0,
    "seed": 420,
    "precision": "32-true",
    "gradient_checkpointing": False,
}
PLAN = VisionPlan(
    **SHORT,
    modules=("q_proj", "out_proj"),
    batch_size=16,
    weight_decay=0.1,
    scale=100.0,
    shift=1,
    dtype="float16",
)
FULL = replace(PLAN, kind="full", rank=None, dropout=0.0, modules=(), learning_rate=1e-3, dtype="float32")
PAIRS = LanguagePlan(
    **SHORT,
    modules=("q_proj", "o_proj"),
    batch_size=8,
    weight_decay=0.01,
    schedule="linear",
    accumulate=1,
    base_precision="32",
    dtype="float32",
)
HEAD = replace(PAIRS, kind="head", rank=None, dropout=0.0, modules=())
TRAINER = {"accelerator": "cpu", "enable_progress_bar": False}
ORIGIN = Origin("tiny", "owner/tiny-clip", "abc123", "tiny")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def clip(folder):
    return load_clip(ClipSpec("tiny", str(folder)))


@pytest.fixture(scope="session")
def task():
    return tiny_suite().tasks[0]


@pytest.fixture(scope="session")
def splits():
    return {
        split: ImageArrays(*tiny_arrays(48, 3, seed)) for seed, split in enumerate(("train", "validation"))
    }


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def classifier(llama):
    return load_classifier(ClassifierSpec("tiny", str(llama)))


@pytest.fixture(scope="session")
def pairs():
    return tiny_text_task("pairs", absent=["neutral"])


@pytest.fixture(scope="session")
def texts():
    return {
        split: tiny_text_arrays(48, seed, classes=(0, 2))
        for seed, split in enumerate(("train", "validation"))
    }
