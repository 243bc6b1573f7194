"""Pictures become the network's input as torchvision's transforms would have it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from reference_samples import torchvision_input
from torch import nn

from netopsy.errors import SamplesError
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.sources.load import load_network
from netopsy.samples.load import load_samples
from netopsy.samples.pixels import apply, array_of, normalise, plain_image

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CAFFE = {"mean": (104.0, 117.0, 123.0), "std": (1.0, 1.0, 1.0), "channels": "BGR", "scale": 1.0}
GRAY = {"mean": (0.1307,), "std": (0.3081,), "channels": "L"}


def picture(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    depth = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, depth), dtype=np.uint8)
    return (
        Image.fromarray(pixels.squeeze(-1) if depth == 1 else pixels, mode)
        if depth != 4
        else (Image.frombytes(mode, (width, height), pixels.tobytes()))
    )


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    margin=st.one_of(st.none(), st.integers(0, 20)),
    mode=st.sampled_from(["RGB", "L", "RGBA", "CMYK"]),
    colours=st.sampled_from([IMAGENET, CAFFE, GRAY]),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic"]),
)
def test_input_equals_torchvisions_transforms(height, width, size, margin, mode, colours, interpolation):
    resize = None if margin is None else min(size) + margin
    preprocessing = Preprocessing(size, resize, interpolation=interpolation, **colours)
    image = picture(height, width, mode)
    ours = torch.from_numpy(apply(image, preprocessing))
    assert ours.shape == preprocessing.input_shape
    torch.testing.assert_close(ours, torchvision_input(image, preprocessing), rtol=0, atol=0)


@pytest.mark.parametrize("colours", [IMAGENET, CAFFE, GRAY])
@pytest.mark.parametrize("shape", [(32, 32, 3), (32, 32, 1), (32, 32, 4), (20, 41, 3)])
def test_arrays_in_memory_give_the_same_as_the_pictures_one_by_one(colours, shape):
    preprocessing = Preprocessing((32, 32), 36, **colours)
    x = np.random.default_rng(0).integers(0, 256, (7, *shape), dtype=np.uint8)
    samples = load_samples((x, np.arange(7)))
    (batch,) = samples.batches(preprocessing, 7)
    expected = [torchvision_input(Image.fromarray(image.squeeze()), preprocessing) for image in x]
    torch.testing.assert_close(batch.images, torch.stack(expected), rtol=0, atol=0)


def test_a_picture_of_the_networks_size_is_not_resampled():
    preprocessing = Preprocessing((24, 24), 32, **IMAGENET)
    image = picture(24, 24)
    pixels = torch.from_numpy(np.asarray(image).transpose(2, 0, 1) / 255).float()
    mean, std = (torch.tensor(IMAGENET[k]).view(3, 1, 1) for k in ("mean", "std"))
    torch.testing.assert_close(torch.from_numpy(apply(image, preprocessing)), (pixels - mean) / std)


def test_a_picture_whose_short_side_is_the_resize_is_only_cropped():
    preprocessing = Preprocessing((24, 24), 32, **CAFFE)
    image = picture(32, 50)
    bgr = np.asarray(image)[4:28, 13:37, ::-1].astype(np.float32) - np.array(CAFFE["mean"], np.float32)
    np.testing.assert_array_equal(apply(image, preprocessing), bgr.transpose(2, 0, 1))


def test_float_pixels_are_resampled_as_floats():
    x = np.random.default_rng(0).random((3, 20, 30, 3))
    preprocessing = Preprocessing((12, 12), 16, **IMAGENET)
    (batch,) = load_samples((x, [0, 1, 2])).batches(preprocessing, 3)
    tensor = torch.from_numpy(x.astype(np.float32)).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(tensor, (16, 24), mode="bilinear", antialias=True)[..., 2:14, 6:18]
    mean, std = (torch.tensor(IMAGENET[k]).view(3, 1, 1) for k in ("mean", "std"))
    torch.testing.assert_close(batch.images, (resized - mean) / std, rtol=0, atol=2e-5)


def test_floats_that_are_eight_bit_pixels_become_them_again():
    x = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    for dtype in (np.float32, np.float64):
        again = load_samples(((x / 255).astype(dtype), np.arange(4)))
        np.testing.assert_array_equal(np.stack([again.image(i) for i in range(4)]), x)
        assert again.digest == load_samples((x, np.arange(4))).digest


def test_float_gray_of_an_rgb_picture_weighs_the_channels():
    x = np.random.default_rng(0).random((1, 8, 8, 3)) * 0.999
    (batch,) = load_samples((x, [0])).batches(Preprocessing((8, 8), mean=(0.0,), std=(1.0,), channels="L"), 1)
    luma = x[0] @ [0.299, 0.587, 0.114]  # ITU-R 601-2
    np.testing.assert_allclose(batch.images[0, 0], luma, atol=1e-5)


def test_every_mode_of_picture_is_read(tmp_path):
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(array_of(plain_image(Image.open(tmp_path / "deep.png")))[..., 0], np.rint(deep / 257))
    np.testing.assert_array_equal(
        array_of(plain_image(Image.fromarray(deep.astype(np.int32))))[..., 0], np.rint(deep / 257)
    )
    palette = picture(8, 8).quantize(16)
    np.testing.assert_array_equal(array_of(plain_image(palette)), np.asarray(palette.convert("RGB")))
    palette.save(tmp_path / "clear.png", transparency=bytes([0, 128]))
    np.testing.assert_array_equal(
        array_of(plain_image(Image.open(tmp_path / "clear.png"))), np.asarray(palette.convert("RGB"))
    )
    bits = Image.fromarray((deep > 30000).astype(np.uint8) * 255).convert("1")
    np.testing.assert_array_equal(array_of(plain_image(bits))[..., 0], (deep > 30000) * 255)
    assert array_of(plain_image(picture(8, 8, "LA"))).shape == (8, 8, 1)
    with pytest.raises(ValueError, match="unknown range"):
        plain_image(Image.fromarray(deep.astype(np.float32)))


def test_orientation_in_exif_is_ignored(tmp_path):
    image = picture(10, 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(array_of(plain_image(Image.open(tmp_path / "turned.png"))), np.asarray(image))


def test_normalise_fills_the_buffer_it_is_given():
    preprocessing = Preprocessing((2, 3), **IMAGENET)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 2, 3, 3), dtype=np.uint8)
    buffer = np.full((6, 3, 2, 3), np.nan, np.float32)
    normalise(pixels, preprocessing, buffer[1:5])
    np.testing.assert_array_equal(buffer[1:5], normalise(pixels, preprocessing))
    assert np.isnan(buffer[[0, 5]]).all()


@pytest.mark.parametrize("channels", [2, 4, 5, 13])
def test_pictures_of_any_number_of_channels_fit_a_network_of_as_many(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, channels), dtype=np.uint8)
    samples = load_samples((pixels, np.arange(6) % 2))
    module = nn.Sequential(nn.Conv2d(channels, 3, 3), nn.Flatten(), nn.Linear(108, 2))
    network = load_network(module, size=8, mean=0.5, std=0.25)
    assert network.preprocessing.channels == channels and network.preprocessing.input_shape == (channels, 8, 8)
    (batch,) = samples.batches(network.preprocessing, 6)
    np.testing.assert_allclose(batch.images, (pixels.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25, rtol=1e-5, atol=1e-6)
    (small,) = samples.batches(
        Preprocessing((4, 4), mean=(0.0,) * channels, std=(1.0,) * channels, channels=channels), 6
    )
    for channel in range(channels):
        gray = load_samples((pixels[..., channel], np.arange(6) % 2))
        (plane,) = gray.batches(Preprocessing((4, 4), mean=(0.0,), std=(1.0,), channels="L"), 6)
        assert torch.equal(small.images[:, channel], plane.images[:, 0])


def test_channels_that_the_network_does_not_have_are_refused() -> None:
    two = load_samples((np.zeros((4, 8, 8, 2), np.uint8), np.arange(4) % 2))
    with pytest.raises(SamplesError, match="2 channels and the network takes 3"):
        next(iter(two.batches(Preprocessing((8, 8)), 4)))
    three = load_samples((np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2))
    five = Preprocessing((8, 8), mean=(0.0,) * 5, std=(1.0,) * 5, channels=5)
    with pytest.raises(SamplesError, match="3 channels and the network takes 5"):
        next(iter(three.batches(five, 4)))


def test_the_order_of_registration_says_nothing_of_the_channels() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second, self.first = nn.Conv2d(6, 2, 3), nn.Conv2d(3, 6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x)).mean((2, 3))

    assert load_network(Late(), size=8).preprocessing.channels == "RGB"
