"""`mini_figure2` as a user types it, its CKA recomputed by the definition, with whole Gram matrices."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPModel

from knots.assets import asset_path
from knots.pipelines import parse_merge
from knots.suites.data import Sample, load_split
from tests.experiments.recomputing import check_printed, kept
from tests.experiments.rehearsing import type_command
from tests.test_conf import composed

pytestmark = pytest.mark.slow

TASKS = ("digits", "textures", "signs")
MODULE = "encoder.layers.1.self_attn.v_proj"


def hsic(k: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """The unbiased estimator, written down from its definition (Song et al. 2012)."""
    k, m = k - torch.diag(k.diagonal()), m - torch.diag(m.diagonal())
    n = len(k)
    trace, rows = (k @ m).trace(), k.sum(dim=1) @ m.sum(dim=1)
    return (trace + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)) / (n * (n - 3))


def cka(x: torch.Tensor, y: torch.Tensor) -> float:
    k, m = x @ x.T, y @ y.T
    return float(hsic(k, m) / (hsic(k, k) * hsic(m, m)).sqrt())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("figure2")


def inputs(clip: CLIPModel, place: Path) -> torch.Tensor:
    """The base's inputs of the module, every token of the items that the figure's caption names."""
    suite = parse_merge(composed(f"tasks=[{','.join(TASKS)}]")).suite
    cache = place / "cache"
    images = [load_split(task, "test", cache, None, Sample(128, 0)).images for task in suite.tasks]
    pixels = torch.cat([torch.from_numpy(some.copy()) for some in images]).permute(0, 3, 1, 2)
    settings = json.loads(asset_path("mini_clip/base/preprocessor_config.json").read_text())
    mean, std = (torch.tensor(settings[f"image_{of}"]).reshape(3, 1, 1) for of in ("mean", "std"))
    seen: list[torch.Tensor] = []
    hook = clip.vision_model.get_submodule(MODULE).register_forward_hook(lambda _, x, __: seen.append(x[0]))
    with torch.no_grad():
        clip.vision_model(pixel_values=(pixels.double() / 255).float().sub(mean).div(std))
    hook.remove()
    return torch.cat(seen).flatten(0, 1).double()


def test_the_figure_is_that_of_the_definition(place: Path):
    out = type_command(place, "reproduce.py", ["experiment=mini_figure2", "logger=none"])
    record = kept(place / "outputs", "mini_figure2")
    for sheet in record["sheets"]:
        check_printed(out, sheet)
    (path,) = (place / "outputs" / "analyze").glob("[!.]*/metrics.json")
    panels = json.loads(path.read_text())["panels"]
    clip = CLIPModel.from_pretrained(asset_path("mini_clip/base")).requires_grad_(False)
    x = inputs(clip, place)
    deltas = {"lora": [], "full": []}
    for task in TASKS:
        lora = load_file(asset_path(f"mini_clip/adapters/universe_0/{task}") / "adapter_model.safetensors")
        b, a = (next(v for k, v in lora.items() if MODULE in k and f"lora_{ab}" in k) for ab in "BA")
        deltas["lora"].append(b.double() @ a.double())
        full = load_file(place / "outputs" / "finetune" / "mini_clip_full" / task / "model.safetensors")
        (weight,) = (v for k, v in full.items() if k.endswith(f"{MODULE}.weight"))
        deltas["full"].append(weight.double() - clip.vision_model.get_submodule(MODULE).weight.double())
    for kind, found in deltas.items():
        matrix = panels[kind]["per_module"][MODULE]
        # The package reads weights in float32.
        assert cka(x @ found[0].T, x @ found[1].T) == pytest.approx(matrix[0][1], abs=2e-4), kind
    _, _, vt = torch.linalg.svd(torch.cat(deltas["lora"], dim=1), full_matrices=False)
    rank = int((torch.linalg.svdvals(torch.cat(deltas["lora"], dim=1)) > 1e-5).sum())
    slices = torch.split(vt[:rank], x.shape[1], dim=1)
    found = cka(x @ slices[0].T, x @ slices[2].T)
    assert found == pytest.approx(panels["knots"]["per_module"][MODULE][0][2], abs=2e-4)
