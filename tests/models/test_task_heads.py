"""Each task's head: from its adapter, or from a file, and a missing one is an error that names both."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from knots.adapters import Adapter, load_adapter
from knots.errors import KnotsError
from knots.models.task_heads import task_heads
from tests.language import WIDTH, tiny_text_adapter


def adapters(*tasks: str, heads: bool = True) -> list[Adapter]:
    return [
        Adapter(
            task, {}, {"score.weight": torch.full((3, 4), float(place))} if heads else {}, source=f"of/{task}"
        )
        for place, task in enumerate(tasks)
    ]


def test_the_head_that_peft_saved(tmp_path: Path):
    adapter = load_adapter(tiny_text_adapter(tmp_path / "rte", seed=1))
    (head,) = task_heads([adapter], None, tmp_path)
    assert head.shape == (3, WIDTH)
    assert torch.equal(head, adapter.heads["score.weight"])


@pytest.mark.parametrize("form", ["{}", "{}.weight", "{}.score.weight"])
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_a_file_comes_before_the_adapters(form: str, kind: str, tmp_path: Path):
    file = tmp_path / f"heads.{kind}"
    tensors = {form.format("rte"): torch.full((3, 4), 7.0, dtype=torch.float16)}
    save_file(tensors, file) if kind == "safetensors" else torch.save(tensors, file)
    snli, rte = task_heads(adapters("snli", "rte"), str(file), tmp_path)
    assert torch.equal(snli, torch.zeros(3, 4))
    assert torch.equal(rte, torch.full((3, 4), 7.0))
    assert rte.dtype == torch.float32


def test_a_state_dict_a_task(tmp_path: Path):
    torch.save({"rte": {"score.weight": torch.ones(3, 4)}}, tmp_path / "heads.pt")
    (head,) = task_heads(adapters("rte", heads=False), str(tmp_path / "heads.pt"), tmp_path)
    assert torch.equal(head, torch.ones(3, 4))


def test_a_missing_head_names_the_adapter_and_the_way_out(tmp_path: Path):
    with pytest.raises(KnotsError) as caught:
        task_heads(adapters("rte", heads=False), None, tmp_path)
    assert "'rte' has no head: its adapter 'of/rte' has no 'score.weight', and no file" in str(caught.value)
    assert "model.heads=" in str(caught.value)
    file = tmp_path / "heads.safetensors"
    save_file({"qnli": torch.ones(3, 4)}, file)
    with pytest.raises(KnotsError, match=r"has no 'score.weight', nor has the file '.*' a tensor 'rte'"):
        task_heads(adapters("rte", heads=False), str(file), tmp_path)


def test_files_that_hold_no_heads(tmp_path: Path):
    with pytest.raises(KnotsError, match=r"file of heads '.*nowhere.pt' is not there"):
        task_heads(adapters("rte"), str(tmp_path / "nowhere.pt"), tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(KnotsError, match=r"bad.safetensors' cannot be read"):
        task_heads(adapters("rte"), str(tmp_path / "bad.safetensors"), tmp_path)
    torch.save([torch.ones(3, 4)], tmp_path / "list.pt")
    with pytest.raises(KnotsError, match="holds list, not tensors by task"):
        task_heads(adapters("rte"), str(tmp_path / "list.pt"), tmp_path)
    torch.save({"rte": torch.ones(3)}, tmp_path / "flat.pt")
    with pytest.raises(KnotsError, match=r"task 'rte': its head has shape \(3,\)"):
        task_heads(adapters("rte"), str(tmp_path / "flat.pt"), tmp_path)


def test_a_head_with_a_bias_is_refused(tmp_path: Path):
    biased = Adapter("rte", {}, {"score.weight": torch.ones(3, 4), "score.bias": torch.ones(3)})
    with pytest.raises(KnotsError, match="adapter 'rte': its head has a bias"):
        task_heads([biased], None, tmp_path)


def test_the_official_heads(shared: Path, tmp_path: Path):
    file = shared / "reference" / "llama3_8b_nli_heads.safetensors"
    tasks = ("snli", "mnli", "sick", "qnli", "rte", "scitail")
    heads = task_heads(adapters(*tasks, heads=False), str(file), tmp_path)
    assert [tuple(head.shape) for head in heads] == [(3, 4096)] * 6
