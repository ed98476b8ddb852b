"""A tiny CLIP and a tiny Llama with adapters of different ranks, and few items."""

from collections.abc import Sequence

import pytest

from knots.adapters import Adapter, load_adapter
from knots.models.classifier import Classifier, ClassifierSpec, load_classifier
from knots.models.clip import Clip, ClipSpec, load_clip
from knots.suites.data import ImageArrays, TextArrays
from tests.language import tiny_llama, tiny_text_adapter, tiny_text_arrays
from tests.miniatures import tiny_adapter_in_memory, tiny_arrays, tiny_clip


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return load_clip(ClipSpec("tiny", str(tiny_clip(tmp_path_factory.mktemp("clip")))))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return load_classifier(ClassifierSpec("tiny", str(tiny_llama(tmp_path_factory.mktemp("llama")))))


@pytest.fixture(scope="session")
def adapters() -> Sequence[Adapter]:
    """One adapter of the CLIP a task, of ranks 2, 3 and 4."""
    return [tiny_adapter_in_memory(f"task {seed}", seed, rank=2 + seed) for seed in range(3)]


@pytest.fixture(scope="session")
def text_adapters(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Adapter]:
    folder = tmp_path_factory.mktemp("adapters")
    return [
        load_adapter(tiny_text_adapter(folder / f"{seed}", seed), name=f"task {seed}") for seed in range(2)
    ]


@pytest.fixture(scope="session")
def images() -> Sequence[ImageArrays]:
    return [ImageArrays(*tiny_arrays(n, 3, seed)) for seed, n in enumerate((7, 0, 6))]


@pytest.fixture(scope="session")
def texts() -> Sequence[TextArrays]:
    return [tiny_text_arrays(n, seed) for seed, n in enumerate((9, 8))]
