import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from knots.adapters.tensors import Entry, read_tensors, write_tensors
from knots.errors import KnotsError


@pytest.mark.parametrize("kept", [0, 4, 40, 90, -1])
def test_truncated_safetensors_file_is_named(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "adapter_model.safetensors"
    save_file({"x": torch.ones(8, 8)}, file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(KnotsError, match=r"adapter_model\.safetensors is truncated or damaged") as caught:
        read_tensors(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0, 10, 200, -8])
def test_truncated_pickle_is_named(tmp_path: Path, zipped: bool, kept: int) -> None:
    file = tmp_path / "adapter_model.bin"
    torch.save({"x": torch.ones(8, 8)}, file, _use_new_zipfile_serialization=zipped)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(KnotsError, match=r"adapter_model\.bin is truncated or damaged"):
        read_tensors(file)


class Harmful:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("how", ["torch", "zip", "pickle"])
def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    file, mark = tmp_path / "adapter_model.bin", tmp_path / "mark"
    content = {"x": torch.ones(2), "y": Harmful(mark)}
    if how == "pickle":
        file.write_bytes(pickle.dumps(Harmful(mark)))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "zip")
    reason = (
        "is truncated or damaged, or no file of tensors" if how == "pickle" else "holds more than tensors"
    )
    with pytest.raises(KnotsError, match=rf"adapter_model\.bin {reason}"):
        read_tensors(file)
    assert not mark.exists()


@pytest.mark.parametrize("content", [[torch.ones(2)], {"x": 1}, torch.ones(2)])
def test_pickle_that_is_no_table_of_tensors(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "adapter_model.bin")
    with pytest.raises(KnotsError, match="must hold tensors by name"):
        read_tensors(tmp_path / "adapter_model.bin")


def test_lfs_pointer(tmp_path: Path) -> None:
    file = tmp_path / "adapter_model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(KnotsError, match="Git LFS pointer"):
        read_tensors(file)


def test_streamed_file_is_safetensors(tmp_path: Path, generator: torch.Generator) -> None:
    tensors = {
        "é.b": torch.randn(3, 5, generator=generator),
        "a": torch.randn(4, generator=generator),
        "transposed": torch.randn(3, 5, generator=generator).T,
        "double": torch.randn(2, 2, generator=generator, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
    }
    entries = [Entry(key, tuple(tensor.shape), tensor.clone) for key, tensor in tensors.items()]
    write_tensors(tmp_path / "x.safetensors", entries, {"format": "pt"})
    loaded = load_file(tmp_path / "x.safetensors")
    assert_close(loaded, {key: tensor.float() for key, tensor in tensors.items()})
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_one_tensor_is_made_at_a_time(tmp_path: Path) -> None:
    alive: list[int] = []

    def make(index: int) -> torch.Tensor:
        alive.append(index)
        assert file.stat().st_size >= 0  # the file is being written while later tensors do not exist yet
        return torch.full((512, 512), float(index))

    file = tmp_path / "x.safetensors"
    sizes: list[int] = []
    entries = [
        Entry(str(i), (512, 512), lambda i=i: (sizes.append(file.stat().st_size), make(i))[1])
        for i in range(3)
    ]
    write_tensors(file, entries, {})
    assert alive == [0, 1, 2]
    assert sizes[1] - sizes[0] >= 512 * 512 * 4 - 8192
