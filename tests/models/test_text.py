"""open_clip's text tower beside the vision tower of transformers."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from knots.errors import KnotsError
from knots.models.clip import ClipSpec, load_clip
from knots.models.heads import build_heads, task_features
from knots.models.text import TextSpec, encode_tokens, text_encoder, text_identity
from tests.miniatures import tiny_suite

WIDTH, LAYERS, HEADS, DIM = 16, 2, 2, 12
PROMPTS = ["a photo of the number zero", "stripes", "a " + "very " * 100 + "long one", 'the number: "3".']
"""OpenAI's tokenizer knows any text; one prompt is longer than the 77 tokens that fit."""


def add_model(folder: Path, name: str, quick_gelu: bool) -> str:
    """Tell open_clip of a small CLIP, whose features are as wide as the tiny CLIP's."""
    tower = {"width": WIDTH, "layers": LAYERS, "heads": HEADS}
    config = {
        "embed_dim": DIM,
        "quick_gelu": quick_gelu,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": WIDTH, "head_width": 8, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, **tower},
    }
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")
    return name


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> TextSpec:
    """A small open_clip model with random weights in a file."""
    folder = tmp_path_factory.mktemp("open_clip")
    name = add_model(folder, "tiny-quickgelu", quick_gelu=True)
    add_model(folder, "tiny", quick_gelu=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.create_model(name)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    save_file(model.state_dict(), folder / "weights.safetensors")
    return TextSpec(name, str(folder / "weights.safetensors"))


def in_transformers(model: torch.nn.Module) -> CLIPTextModelWithProjection:
    """The same text tower in the layout of transformers."""
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=77,
        projection_dim=DIM,
        hidden_act="quick_gelu",
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=0,
    )
    theirs = model.state_dict()
    ours = {
        "text_model.embeddings.token_embedding.weight": theirs["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": theirs["positional_embedding"],
        "text_model.final_layer_norm.weight": theirs["ln_final.weight"],
        "text_model.final_layer_norm.bias": theirs["ln_final.bias"],
        "text_projection.weight": theirs["text_projection"].T.contiguous(),
    }
    for layer in range(LAYERS):
        block, target = f"transformer.resblocks.{layer}", f"text_model.encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            parts = theirs[f"{block}.attn.in_proj_{kind}"].chunk(3)
            for name, part in zip("qkv", parts, strict=True):
                ours[f"{target}.self_attn.{name}_proj.{kind}"] = part.contiguous()
            for old, new in {
                "attn.out_proj": "self_attn.out_proj",
                "ln_1": "layer_norm1",
                "ln_2": "layer_norm2",
                "mlp.c_fc": "mlp.fc1",
                "mlp.c_proj": "mlp.fc2",
            }.items():
                ours[f"{target}.{new}.{kind}"] = theirs[f"{block}.{old}.{kind}"]
    converted = CLIPTextModelWithProjection(config).eval()
    # Some versions keep the tower's keys without the prefix.
    bare = {key.removeprefix("text_model."): tensor for key, tensor in ours.items()}
    converted.load_state_dict(ours if set(ours) <= set(converted.state_dict()) else bare, strict=False)
    return converted


def test_the_text_towers_of_open_clip_and_transformers_agree(spec: TextSpec):
    model = open_clip.create_model(spec.open_clip, pretrained=spec.weights).eval()
    tokens = open_clip.get_tokenizer(spec.open_clip)(PROMPTS)
    with torch.no_grad():
        theirs = torch.nn.functional.normalize(in_transformers(model)(input_ids=tokens).text_embeds, dim=-1)
        ours = model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    # Prompts that all look alike to a tower would show nothing.
    assert torch.pdist(ours).min() > 1e-2


def test_features_do_not_depend_on_padding_or_company(spec: TextSpec):
    model = open_clip.create_model(spec.open_clip, pretrained=spec.weights).eval()
    tokenizer = open_clip.get_tokenizer(spec.open_clip)
    with text_encoder(spec, "cpu") as encode:
        together = encode(PROMPTS)
        alone = torch.cat([encode([prompt]) for prompt in PROMPTS])
    full = model.encode_text(tokenizer(PROMPTS), normalize=True).detach()
    torch.testing.assert_close(together, full)
    torch.testing.assert_close(alone, full)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(PROMPTS)))
    short = tokenizer(PROMPTS[:2])
    torch.testing.assert_close(encode_tokens(model, short), full[:2])


def test_a_long_list_of_prompts(spec: TextSpec):
    with text_encoder(spec, "cpu") as encode:
        features = encode(["a photo", "the number one"] * 300)
    assert features.shape == (600, DIM)
    torch.testing.assert_close(features[:2], features[-2:])


def test_a_clip_takes_its_heads_from_open_clip(spec: TextSpec, clip_folder: Path, tmp_path: Path):
    clip = load_clip(ClipSpec("tiny", str(clip_folder), text=spec))
    heads = build_heads(clip, tiny_suite(), tmp_path)
    assert heads.joint.shape == (7, DIM)
    with text_encoder(spec, "cpu") as encode:
        expected = encode(["a photo of the number zero"])
    torch.testing.assert_close(heads.tasks[0][:1], expected)
    own = build_heads(load_clip(ClipSpec("tiny", str(clip_folder))), tiny_suite(), tmp_path)
    assert not torch.allclose(own.joint, heads.joint)


def test_both_towers_have_the_same_activation(spec: TextSpec, clip_folder: Path):
    clip = load_clip(ClipSpec("tiny", str(clip_folder), text=spec))
    assert clip.model.config.vision_config.hidden_act == "quick_gelu"
    assert type(clip.tower.encoder.layers[0].mlp.activation_fn).__name__ == "QuickGELUActivation"
    model = open_clip.create_model(spec.open_clip)
    assert isinstance(model.transformer.resblocks[0].mlp.gelu, QuickGELU)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-L-14", "ViT-B-16"])
def test_openai_weights_need_the_quickgelu_names(name: str):
    # The plain names keep GELU, and open_clip only warns where they meet OpenAI's weights.
    assert not open_clip.get_model_config(name).get("quick_gelu")
    assert open_clip.get_model_config(f"{name}-quickgelu")["quick_gelu"]
    assert open_clip.get_pretrained_cfg(f"{name}-quickgelu", "openai")["quick_gelu"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TextSpec("tiny", "openai"), r"has the activation gelu, but .* quick_gelu.*try 'tiny-quickgelu'"),
        (TextSpec("ViT-B-32-quickgelu"), r"features of size 512, but the vision tower's have size 12"),
        (TextSpec("ViT-B32"), r"unknown open_clip model 'ViT-B32'; did you mean 'ViT-B-32'"),
        (TextSpec("tiny-quickgelu", "opneai"), r"unknown weights of open_clip model 'tiny-quickgelu'"),
    ],
)
def test_a_text_tower_of_another_clip_is_refused(
    spec: TextSpec, text: TextSpec, message: str, clip_folder: Path
):
    with pytest.raises(KnotsError, match=message):
        load_clip(ClipSpec("tiny", str(clip_folder), text=text))


def test_damaged_weights_are_named(spec: TextSpec, tmp_path: Path):
    broken = tmp_path / "weights.safetensors"
    broken.write_bytes(Path(spec.weights).read_bytes()[:1000])
    with (
        pytest.raises(KnotsError, match=r"weights in .*weights.safetensors cannot be loaded"),
        text_encoder(TextSpec(spec.open_clip, str(broken)), "cpu"),
    ):
        pass


def test_heads_are_cached_by_content(
    spec: TextSpec, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clip = load_clip(ClipSpec("tiny", str(clip_folder), text=spec))
    tasks = tiny_suite().tasks
    first = task_features(clip, tasks, tmp_path)
    files = sorted((tmp_path / "heads").iterdir())
    assert len(files) == len(tasks)

    def unused(*_: object) -> None:
        raise AssertionError("the text tower is not needed")

    with monkeypatch.context() as patch:
        patch.setattr("knots.models.text._load", unused)
        again = task_features(clip, tasks[::-1], tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first, again[::-1], strict=True))
    files[0].write_bytes(b"damaged")
    repaired = task_features(clip, tasks, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first, repaired, strict=True))
    other = load_clip(ClipSpec("tiny", str(clip_folder)))
    task_features(other, tasks, tmp_path)
    assert len(list((tmp_path / "heads").iterdir())) == 2 * len(tasks)


def test_weights_elsewhere_are_the_same_text_tower(spec: TextSpec, tmp_path: Path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(Path(spec.weights).read_bytes())
    assert text_identity(TextSpec(spec.open_clip, str(copy))) == text_identity(spec)
    save_file({"a": torch.ones(1)}, copy)
    assert text_identity(TextSpec(spec.open_clip, str(copy))) != text_identity(spec)
