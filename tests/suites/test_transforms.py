"""The transforms give what the models' own do, up to normalization, for pictures of any size and mode."""

import pickle
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torchvision.transforms import Normalize
from transformers import CLIPImageProcessorPil

from knots.errors import KnotsError
from knots.suites.transforms import Transform, make_transform, to_rgb

SIZE = 32
SETTINGS = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
CLIP = make_transform("clip", SIZE, SETTINGS)
OPEN_CLIP = make_transform("open_clip", SIZE, {})
PROCESSOR = CLIPImageProcessorPil(**SETTINGS)

# (width, height)
SIZES = [
    (32, 32),
    (33, 32),
    (45, 45),
    (61, 47),
    (47, 61),
    (200, 31),
    (31, 200),
    (1, 1),
    (2, 3),
    (5, 400),
    (640, 480),
]
MODES = [
    *("RGB", "L", "LA", "1", "P", "P with one transparent colour", "P with an alpha each"),
    *("CMYK", "RGBA", "I;16", "I;16B", "YCbCr", "HSV", "I", "F"),
]


def noise(width: int, height: int) -> Image.Image:
    generator = np.random.default_rng(width * 1000 + height)
    coarse = generator.integers(0, 256, size=(height // 3 + 1, width // 3 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse.repeat(3, axis=0).repeat(3, axis=1)[:height, :width])


def picture(mode: str, width: int = 61, height: int = 47) -> Image.Image:
    rgb = noise(width, height)
    if mode.startswith("P"):
        palette = rgb.quantize(16)
        if "one" in mode:
            palette.info["transparency"] = 3
        elif "each" in mode:
            palette.info["transparency"] = bytes(range(0, 256, 16))
        return palette
    if mode.startswith("I;16"):
        grey = np.asarray(rgb.convert("L")).astype(np.uint16) * 257
        return Image.frombytes(mode, rgb.size, grey.astype(">u2" if mode.endswith("B") else "<u2").tobytes())
    if mode in ("RGBA", "LA"):
        with_alpha = rgb.convert(mode)
        with_alpha.putalpha(noise(height, width).resize(rgb.size).convert("L"))
        return with_alpha
    return rgb.convert(mode)


def normalized(pixels: np.ndarray) -> torch.Tensor:
    """The arithmetic of `Clip.normalize`, [3, H, W]."""
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    rescaled = (images.double() * float(PROCESSOR.rescale_factor)).float()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (PROCESSOR.image_mean, PROCESSOR.image_std))
    return (rescaled - mean) / std


def processed(image: Image.Image) -> torch.Tensor:
    return PROCESSOR(image, return_tensors="pt")["pixel_values"][0]


@pytest.mark.parametrize("size", SIZES)
def test_clip_is_the_processor_bit_for_bit(size: tuple[int, int]):
    image = noise(*size)
    pixels = CLIP(image)
    assert (pixels.shape, pixels.dtype) == ((SIZE, SIZE, 3), np.uint8)
    assert torch.equal(normalized(pixels), processed(image))


@pytest.mark.parametrize("mode", MODES)
def test_clip_takes_any_mode_as_rgb(mode: str):
    image = picture(mode)
    pixels = CLIP(image)
    assert torch.equal(normalized(pixels), processed(to_rgb(image)))
    if mode not in ("P with one transparent colour", "P with an alpha each", "I;16", "I;16B", "F"):
        np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.asarray(image.convert("RGB")))


def test_sixteen_bits_keep_their_upper_eight():
    grey = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    for mode, order in (("I;16", "<u2"), ("I;16B", ">u2")):
        image = Image.frombytes(mode, (16, 16), grey.astype(order).tobytes())
        np.testing.assert_array_equal(np.asarray(to_rgb(image))[..., 0], np.arange(256).reshape(16, 16))


def test_transparency_shows_the_colour_beneath():
    image = picture("P with one transparent colour")
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.asarray(picture("P").convert("RGB")))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
def test_open_clip_is_its_own_up_to_normalization(mode: str, size: tuple[int, int]):
    image = picture(mode, *size)
    whole = open_clip.image_transform(SIZE, is_train=False)
    (normalize,) = [step for step in whole.transforms if isinstance(step, Normalize)]
    pixels = OPEN_CLIP(image)
    assert (pixels.shape, pixels.dtype) == ((SIZE, SIZE, 3), np.uint8)
    ours = normalize(torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div(255))
    assert torch.equal(ours, whole(image))


def test_the_two_differ_on_odd_margins_only():
    for margin in range(20):
        image = noise(SIZE + margin, SIZE)
        # The processor rounds the half of a margin down, torchvision to the even number.
        np.testing.assert_array_equal(CLIP(image), np.asarray(image)[:, margin // 2 :][:, :SIZE])
        np.testing.assert_array_equal(OPEN_CLIP(image), np.asarray(image)[:, round(margin / 2) :][:, :SIZE])
    # 15 columns: 7 are cut off on the left, or 8.
    image = noise(SIZE + 15, SIZE)
    assert not np.array_equal(CLIP(image), OPEN_CLIP(image))


def test_open_clip_resizes_palettes_before_it_converts_them():
    image = picture("P")
    assert not np.array_equal(CLIP(image), OPEN_CLIP(image))


@pytest.mark.parametrize("transform", [CLIP, OPEN_CLIP], ids=lambda t: t.kind)
def test_a_picture_of_the_models_size_is_not_touched(transform: Transform):
    image = noise(SIZE, SIZE)
    np.testing.assert_array_equal(transform(image), np.asarray(image))


@pytest.mark.parametrize("transform", [CLIP, OPEN_CLIP], ids=lambda t: t.kind)
def test_travels_to_other_processes(transform: Transform):
    image = noise(50, 40)
    expected = transform(image)
    copy = pickle.loads(pickle.dumps(transform))
    assert copy == transform
    assert hash(copy) == hash(transform)
    np.testing.assert_array_equal(copy(image), expected)


def test_every_setting_is_part_of_the_identity():
    changes: list[dict[str, Any]] = [
        {},
        {"resample": 2},
        {"do_center_crop": False},
        {"do_resize": False},
        {"size": {"shortest_edge": 40}},
        {"crop_size": {"height": 30, "width": 30}},
    ]
    transforms = [make_transform("clip", SIZE, {**SETTINGS, **change}) for change in changes]
    transforms += [make_transform("clip", 64, SETTINGS), OPEN_CLIP, make_transform("open_clip", 64, {})]
    identities = [transform.identity for transform in transforms]
    assert all(identities.count(identity) == 1 for identity in identities)
    # The order in which settings are given does not count, nor what open_clip does not look at.
    assert make_transform("clip", SIZE, dict(reversed(SETTINGS.items()))).identity == CLIP.identity
    assert make_transform("open_clip", SIZE, SETTINGS) == OPEN_CLIP


def test_an_unknown_kind_is_named():
    with pytest.raises(KnotsError, match=r"unknown data.transform 'openclip'; did you mean 'open_clip'"):
        make_transform("openclip", SIZE, {})
