"""From a picture to the network's input: convert, resize, crop, normalise.

The reference is torchvision on PIL images: `Resize(resize)`, `CenterCrop(size)`, `ToTensor`, `Normalize`. One thing
differs on purpose: a picture that already has the network's size is taken as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray
from PIL import Image

from netopsy.errors import SamplesError
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.signature import Kind

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
LUMA = np.array([19595, 38470, 7471], np.uint32)  # ITU-R 601-2 in 1/65536, as Pillow has it

MOST_CHANNELS = 64

Pixels = UInt8[np.ndarray, "..."] | Float32[np.ndarray, "..."]


def plain_image(image: Image.Image) -> Image.Image:
    """`image` in mode L or RGB with 8 bits a channel; transparency is dropped, EXIF orientation ignored.

    Errors: ValueError for a mode without a known range (F).
    """
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in ("1", "LA", "La"):
        return image.convert("L")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)  # 16-bit pictures may come in either mode
        return Image.fromarray(np.clip((values * 255 + 32767) // 65535, 0, 255).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floats of unknown range; save it with 8 or 16 bits a channel")
    if image.mode in ("P", "PA") and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def array_of(image: Image.Image) -> UInt8[np.ndarray, "height width channel"]:
    """The pixels of a picture in mode L or RGB."""
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def match_depth(pixels: Pixels, depth: int) -> Pixels:
    """Pixels (..., channels) with `depth` channels: to 1 or 3, alpha is dropped, gray repeated, RGB weighed.

    Raises SamplesError where one of the two numbers of channels has no meaning for the other.
    """
    if pixels.shape[-1] == depth:
        return pixels
    if depth not in (1, 3) or pixels.shape[-1] not in (1, 3, 4):
        raise SamplesError(
            f"the images have {pixels.shape[-1]} channels and the network takes {depth}; give images of {depth} "
            "channels (as arrays or .npz), or a network for these."
        )
    pixels = pixels[..., :3]
    if pixels.shape[-1] == depth:
        return pixels
    if depth == 3:
        return np.repeat(pixels, 3, axis=-1)
    if pixels.dtype == np.uint8:
        return ((pixels @ LUMA + 0x8000) >> 16).astype(np.uint8)[..., None]
    return (pixels @ (LUMA / np.float32(65536)).astype(np.float32))[..., None]


def resized_size(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """(height, width) to resample a picture of (height, width) `size` to, before the crop."""
    if size == preprocessing.size or preprocessing.resize is None:
        return preprocessing.size
    height, width = size
    short = preprocessing.resize
    if height < width:
        return short, int(short * width / height)
    return int(short * height / width), short


def centre_crop(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """The central (height, width) `size` of pixels (height, width, channel), zeros around where they are smaller."""
    missing = [max(0, target - current) for target, current in zip(size, pixels.shape, strict=False)]
    if any(missing):
        pixels = np.pad(pixels, [(m // 2, (m + 1) // 2) for m in missing] + [(0, 0)])
    top, left = (round((current - target) / 2) for target, current in zip(size, pixels.shape, strict=False))
    return pixels[top : top + size[0], left : left + size[1]]


def resample(pixels: Pixels, size: tuple[int, int], interpolation: str) -> Pixels:
    """Pixels (height, width, channel) resampled to (height, width) `size` by Pillow, which antialiases."""
    if pixels.shape[:2] == size:
        return pixels
    shape, filter_ = (size[1], size[0]), FILTERS[interpolation]
    if pixels.dtype == np.uint8 and pixels.shape[-1] in (1, 3):
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else np.ascontiguousarray(pixels))
        return array_of(picture.resize(shape, filter_))
    planes = [np.ascontiguousarray(pixels[..., c]) for c in range(pixels.shape[-1])]
    return np.stack([np.asarray(Image.fromarray(plane).resize(shape, filter_)) for plane in planes], axis=-1)


def fit(pixels: Pixels, preprocessing: Preprocessing) -> Pixels:
    """Pixels (height, width, channel) with the network's size and number of channels, still 0..255 and RGB."""
    if pixels.shape[-1] > preprocessing.depth:
        pixels = match_depth(pixels, preprocessing.depth)  # before resampling, as a loader that converts would
    target = resized_size((pixels.shape[0], pixels.shape[1]), preprocessing)
    pixels = centre_crop(resample(pixels, target, preprocessing.interpolation), preprocessing.size)
    return match_depth(pixels, preprocessing.depth)


def normalise(
    pixels: Pixels, preprocessing: Preprocessing, out: Float32[np.ndarray, "batch channel height width"] | None = None
) -> Float32[np.ndarray, "batch channel height width"]:
    """(pixels * scale - mean) / std of pixels (batch, height, width, channel), in the network's order of channels."""
    if preprocessing.channels == "BGR":
        pixels = pixels[..., ::-1]
    planes = pixels.transpose(0, 3, 1, 2)
    if out is None:
        out = np.empty(planes.shape, np.float32)
    # Division by 255, not multiplication by 1/255: bit for bit what torchvision's ToTensor gives.
    np.divide(planes, np.float32(1 / preprocessing.scale), out=out, dtype=np.float32, casting="unsafe")
    for channel, (mean, std) in enumerate(zip(preprocessing.mean, preprocessing.std, strict=True)):
        plane = out[:, channel]
        plane -= np.float32(mean)
        plane /= np.float32(std)
    return out


def apply(image: Image.Image | Pixels, preprocessing: Preprocessing) -> Float32[np.ndarray, "channel height width"]:
    """One picture, or its pixels (height, width[, channel]) in 0..255, as the network's input."""
    pixels = array_of(plain_image(image)) if isinstance(image, Image.Image) else image
    return normalise(fit(pixels[..., None] if pixels.ndim == 2 else pixels, preprocessing)[None], preprocessing)[0]


THUMBNAIL = 128  # pixels of a thumbnail's longer side


def draw_picture(pixels: Pixels) -> UInt8[np.ndarray, "height width 3"]:
    """A small picture of pixels (height, width, channel) in 0..255: of many channels three, of two the first."""
    pixels = pixels[..., : 3 if pixels.shape[-1] >= 3 else 1]
    plain = pixels if pixels.dtype == np.uint8 else np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    picture = Image.fromarray(np.repeat(plain, 3, axis=-1) if plain.shape[-1] == 1 else np.ascontiguousarray(plain))
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def draw_array(values: Float32[np.ndarray, "..."]) -> UInt8[np.ndarray, "height width 3"]:
    """A small picture of values (channel, height, width), or of the middle slice of more axes, from least to most."""
    while values.ndim > 3 or (values.ndim == 3 and values.shape[0] not in (1, 3)):
        values = values[len(values) // 2]
    values = np.asarray(values, np.float32)
    low, high = float(values.min()), float(values.max())
    grey = (values - low) * np.float32(255 / (high - low) if high > low else 0)
    return draw_picture(grey[..., None] if grey.ndim == 2 else np.moveaxis(grey, 0, -1))


def draw_wave(values: Float32[np.ndarray, "*channels length"]) -> UInt8[np.ndarray, "height width 3"]:
    """The outline of a series, dark on white: at each place from the least to the greatest value, of all channels."""
    height, width = THUMBNAIL // 2, THUMBNAIL
    lines = np.asarray(values, np.float32).reshape(-1, values.shape[-1])
    edges = np.linspace(0, lines.shape[1], min(width, lines.shape[1]) + 1).astype(int)
    low = np.minimum.reduceat(lines.min(0), edges[:-1])
    high = np.maximum.reduceat(lines.max(0), edges[:-1])
    most = max(float(np.abs(lines).max()), 1e-12)
    top, bottom = (np.rint((1 - side / most) / 2 * (height - 1)).astype(int) for side in (high, low))
    rows = np.arange(height)[:, None]
    dark = ((rows >= top) & (rows <= bottom))[:, np.arange(width) * len(top) // width]
    return np.repeat(np.where(dark, 40, 255).astype(np.uint8)[..., None], 3, axis=-1)


def title_values(values: NDArray[Any], kind: Kind, length: int | None, rate: int | None) -> str:
    """A few words on one sample: how long it is, its shape, or its first values."""
    if kind == "series":
        places = values.shape[-1] if length is None else length
        return f"{places / rate:.2f} s" if rate else f"{places:,} values"
    if values.ndim > 1:
        return "x".join(map(str, values.shape))
    shown = ", ".join(f"{value:.4g}" if values.dtype.kind == "f" else str(value) for value in values.ravel()[:6])
    return f"{shown}, ..." if values.size > 6 else shown


def draw_values(values: NDArray[Any], kind: Kind) -> UInt8[np.ndarray, "height width 3"] | None:
    """A small picture of one sample of a kind that a picture shows."""
    if kind == "series":
        return draw_wave(values)
    return draw_array(values) if kind in ("image", "array") and values.ndim > 1 else None
