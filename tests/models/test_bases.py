"""A base whose weights are spread over several files is found whole, or what is missing is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from knots.errors import KnotsError
from knots.models.bases import check_headers, find_base, weights_in, weights_of
from knots.models.classifier import ClassifierSpec, load_classifier
from tests.hub import Hub, files_of, message_of
from tests.language import tiny_llama


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    tiny_llama(folder / "one")
    model = AutoModelForCausalLM.from_pretrained(folder / "one")
    model.save_pretrained(folder / "many", max_shard_size="6KB")
    for path in (folder / "one").glob("*token*"):
        shutil.copy(path, folder / "many")
    assert len(list((folder / "many").glob("model-*.safetensors"))) > 2
    return folder / "many"


def test_all_files_come_from_the_hub_and_nothing_else(hub: Hub, sharded: Path):
    extra = {"original/consolidated.00.pth": b"x", "pytorch_model.bin": b"x"}
    hub.models["meta/llama"] = {**files_of(sharded), **extra}
    base = find_base("meta/llama", None)
    assert base.identity == {"hub": "meta/llama", "commit": hub.commit("meta/llama")}
    assert not any(name.endswith((".pth", ".bin")) for name in hub.downloads)
    model = load_classifier(ClassifierSpec("llama", "meta/llama"), base)
    one = load_classifier(ClassifierSpec("llama", str(sharded.parent / "one")))
    for name, weight in one.tower.model.state_dict().items():
        assert torch.equal(weight, model.tower.model.state_dict()[name])
    hub.stop()
    assert find_base("meta/llama", None) == base


def test_pickled_files_where_there_are_no_others(hub: Hub, sharded: Path, tmp_path: Path):
    index = {"weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}}
    files = {"pytorch_model-1.bin": b"1", "pytorch_model-2.bin": b"2"}
    hub.models["me/old"] = {
        "config.json": b"{}",
        "pytorch_model.bin.index.json": json.dumps(index).encode(),
        **files,
    }
    folder = find_base("me/old", None).folder
    assert {path.name for path in folder.glob("*.bin")} == set(files)


def test_a_file_that_is_missing_is_named(hub: Hub, sharded: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(sharded, copy)
    lost = sorted(copy.glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(
        KnotsError, match=rf"1 of its \d+ files of weights are not there, such as '{lost.name}'"
    ):
        find_base(str(copy), None)
    hub.models["me/half"] = files_of(copy)
    assert f"such as '{lost.name}'" in message_of(lambda: find_base("me/half", None))
    (copy / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(KnotsError, match="lists no files of weights"):
        find_base(str(copy), None)


def test_headers_tell_whether_files_are_whole_and_hold_what_their_list_says(sharded: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(sharded, copy)
    base = find_base(str(copy), None)
    assert weights_of(base) == sorted(copy.glob("model-*.safetensors"))
    check_headers(base)
    check_headers(find_base(str(sharded.parent / "one"), None))
    listed = json.loads((copy / "model.safetensors.index.json").read_text())
    file = weights_of(base)[0]
    more = {**listed, "weight_map": {**listed["weight_map"], "another": file.name}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(more))
    with pytest.raises(KnotsError, match=rf"{file.name} lacks 1 weights, such as 'another'"):
        check_headers(base)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(KnotsError, match=rf"{file.name} is truncated or damaged"):
        check_headers(base)


@pytest.mark.parametrize("zipped", [True, False])
def test_headers_of_pickled_weights(tmp_path: Path, zipped: bool):
    (tmp_path / "config.json").write_text("{}")
    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(300, 30)}, file, _use_new_zipfile_serialization=zipped)
    base = find_base(str(tmp_path), None)
    assert weights_of(base) == [file]
    assert weights_in(file) == {"a"}
    check_headers(base)
    file.write_bytes(file.read_bytes()[:-900])
    with pytest.raises(KnotsError, match="truncated or damaged"):
        check_headers(base)
